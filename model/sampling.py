"""Denoising packed targets from pure noise, every draw a function of (seed, grid, view, attempt, step, cell).

Each step is one look at the grid and takes the whole estimate of the clean grid, drawn or its argmax (version ledger
2.6). No step waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model import self_conditioning
from model.configuration import Evaluation, SelfConditioning
from model.grids import COLOURS
from model.loss import Levels
from model.network import Denoiser
from model.noise import inference_levels
from model.packing import Packed
from model.random import uniform

FRAMES = 8
"""Grids kept of a denoising, evenly spaced, the start and the last included."""
_START, _DRAW = range(2)


class Denoised(NamedTuple):
    """What denoising leaves behind. S sequences, T target rows, N steps."""

    colours: Tensor
    """int64 (T,) in the view's colours."""
    frames: Tensor
    """int64 (up to FRAMES, T)."""
    change: Tensor
    """float (N, S): share of cells that changed at each step."""
    confidence: Tensor
    """float (N, S): mean probability of the likeliest colour."""
    entropy: Tensor
    """float (N, S): mean, in nats."""


@torch.no_grad()
def denoise(
    network: Denoiser, packed: Packed, table: Levels, how: SelfConditioning, config: Evaluation, key: Tensor
) -> Denoised:
    """Denoise every target of `packed`. `key` int64 (S,) stands for (seed, grid, view, attempt)."""
    encoded = network.encode(packed)
    sequences = len(packed.examples.task)
    row_key, cell = key[packed.target_example], packed.target_cell
    cells = torch.zeros(sequences, device=key.device).index_add_(
        0, packed.target_example, torch.ones_like(cell).float()
    )
    colours = (uniform(row_key, _START, cell) * COLOURS).to(torch.int64)
    visited = inference_levels(len(table.beta), config.steps)
    kept = set(torch.linspace(0, config.steps, min(FRAMES, config.steps + 1)).round().int().tolist())
    frames = [colours]
    statistics = []
    features: Tensor | None = None
    for step, level in enumerate(visited):
        alpha_bar = table.alpha_bar[level].expand(len(cell))
        time = table.time[level].expand(len(cell))
        gain = self_conditioning.gain(how, alpha_bar, 1 - level / max(1, len(table.beta) - 1))
        if how.inference == "two-pass" and how.features != "none":
            features = self_conditioning.features(how, network.denoise(packed, encoded, colours, time, None, gain))
        logits = network.denoise(packed, encoded, colours, time, features, gain)
        if how.features != "none":
            features = self_conditioning.features(how, logits)
        chances = logits.softmax(-1)
        best, estimate = chances.max(-1)
        if config.sampler == "draw" and step + 1 < config.steps:
            threshold = uniform(row_key, _DRAW, step, cell)
            estimate = (chances.cumsum(-1) < threshold[:, None]).sum(-1).clamp(max=COLOURS - 1)
        entropy = -(chances * chances.clamp(min=1e-20).log()).sum(-1)
        measured = torch.stack([(estimate != colours).float(), best, entropy], -1)
        sums = torch.zeros(sequences, 3, device=key.device).index_add_(0, packed.target_example, measured)
        statistics.append(sums / cells.clamp(min=1)[:, None])
        colours = estimate
        if step + 1 in kept:
            frames.append(colours)
    change, confidence, mean_entropy = torch.stack(statistics).unbind(-1)
    return Denoised(colours, torch.stack(frames), change, confidence, mean_entropy)
