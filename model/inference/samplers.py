"""Samplers: what a denoising step makes of the network's estimate, one function each.

x_t are the noisy colours, p the estimate p(x_0 | x_t) of each cell, and s < t the next noise level. To add a sampler,
write its function here, put it into SAMPLERS, and add its name to `SamplerName`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.config.evaluation import SamplerName
from model.diffusion.reverse import reverse_probabilities
from model.ops.compilation import maybe_compile
from model.ops.keyed_random import categorical
from model.ops.random_purposes import DenoisingDraw
from model.puzzles.grids import COLOURS

_categorical = maybe_compile(categorical)


class Step(NamedTuple):
    """One denoising step but the last. T cells of S grids."""

    colours: Tensor
    """x_t, int64 (T,)."""
    probabilities: Tensor
    """p, float (T, 10)."""
    likeliest: Tensor
    """argmax of p, int64 (T,)."""
    confidence: Tensor
    """max of p, float (T,)."""
    alpha_bar: Tensor
    """Share of signal at t, float (T,)."""
    alpha_bar_next: Tensor
    """At s, float (T,)."""
    grid: Tensor
    """int64 (T,), rising: the grid that a cell belongs to."""
    cells: Tensor
    """int64 (S,): cells of each grid."""
    uniform: Callable[[DenoisingDraw], Tensor]
    """Draws from [0, 1) for a purpose, float (T,)."""


def draw(step: Step) -> Tensor:
    """x_s ~ p: the whole estimate, drawn (v0 to v6)."""
    return _categorical(step.probabilities, step.uniform(DenoisingDraw.CATEGORICAL))


def argmax(step: Step) -> Tensor:
    """x_s = argmax p: the whole estimate at its likeliest (v7)."""
    return step.likeliest


def posterior(step: Step) -> Tensor:
    """x_s ~ sum over x_0 of q(x_s | x_t, x_0) p(x_0 | x_t): the exact reverse process."""
    probabilities = reverse_probabilities(step.probabilities, step.colours, step.alpha_bar, step.alpha_bar_next)
    return _categorical(probabilities, step.uniform(DenoisingDraw.CATEGORICAL))


def renoise(step: Step) -> Tensor:
    """x_s = argmax p, but uniform colours in the share 1 - alpha_bar_s of each grid's cells where max p is lowest."""
    noise = (step.uniform(DenoisingDraw.RENOISE) * COLOURS).to(torch.int64)
    unsure = least_confident(step.confidence, step.grid, step.cells, 1 - step.alpha_bar_next)
    return torch.where(unsure, noise, step.likeliest)


SAMPLERS: dict[SamplerName, Callable[[Step], Tensor]] = {
    "draw": draw,
    "argmax": argmax,
    "posterior": posterior,
    "renoise": renoise,
}


def least_confident(confidence: Tensor, grid: Tensor, cells: Tensor, share: Tensor) -> Tensor:
    """Which cells are among the `share` (T,) of their own grid with the lowest confidence (T,); bool (T,).

    `grid` int64 (T,) rises and says which grid a cell belongs to, `cells` (S,) how many a grid has. Ties go by
    position.
    """
    order = confidence.argsort(stable=True)
    order = order[grid[order].argsort(stable=True)]
    start = cells.cumsum(0) - cells
    place = torch.arange(len(order), device=order.device)
    rank = torch.empty_like(place).scatter_(0, order, place) - start[grid]
    return rank < (share * cells[grid]).round()
