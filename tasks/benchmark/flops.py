"""Floating-point operations of one step: matrix products, convolutions, and attention between valid rows."""

from typing import NamedTuple

import numpy as np

from model.config.network import Network
from model.network.denoiser import prefix_length
from model.puzzles.arrays import Ints


class Lengths(NamedTuple):
    """Rows of each example, int64 (examples,)."""

    context: Ints
    target: Ints


def forward(config: Network, lengths: Lengths, *, context: bool) -> float:
    """Operations (multiply and add count two) of one denoising pass, with or without reading the contexts first."""
    context_rows, target_rows = float(lengths.context.sum()), float(lengths.target.sum())
    project, rest = 3 * config.width**2, config.width**2 + 3 * config.width * config.feed_forward
    layers, convolved = config.layers * config.turns, 9 * config.feed_forward * (config.convolution == "3x3")
    c, t = lengths.context.astype(np.float64), lengths.target.astype(np.float64)
    total = layers * (2 * (project + rest + convolved) * target_rows + 4 * config.width * float(t @ (c + t)))
    if context:
        # The last layer keeps one size token per sequence: all rows become keys and values, one row continues.
        full_layers, cells = layers - 1, context_rows - prefix_length(config) * len(c)
        total += 2 * project * context_rows * layers + 2 * rest * (context_rows * full_layers + len(c))
        total += 2 * convolved * cells * full_layers
        total += 4 * config.width * (float(c @ c) * full_layers + float(c.sum()))
    return total


def training(config: Network, lengths: Lengths, estimate: bool) -> float:
    """Operations of one update: forward, backward at twice the cost, and one more pass if there is an estimate."""
    return 3 * forward(config, lengths, context=True) + estimate * forward(config, lengths, context=False)
