"""Denoising packed targets from pure noise, every draw a function of (seed, grid, view, attempt, step, cell).

Each step is one look at the grid, from which the sampler makes the grid of the next, less noisy level; the last step
takes the likeliest colours. No step waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.config.diffusion import SelfConditioning
from model.config.evaluation import Evaluation
from model.diffusion import self_conditioning
from model.diffusion.reverse import reverse_probabilities
from model.diffusion.schedule import Levels, inference_levels
from model.network.denoiser import Denoiser
from model.network.packing import Packed
from model.ops.compilation import maybe_compile
from model.ops.keyed_random import categorical, uniform
from model.ops.random_purposes import DenoisingDraw
from model.puzzles.grids import COLOURS

FRAMES = 8
"""Grids kept of a denoising, evenly spaced, the start and the last included."""
_categorical = maybe_compile(categorical)


class Denoised(NamedTuple):
    """What denoising leaves behind. S sequences, T target rows, N steps."""

    colours: Tensor
    """int64 (T,) in the view's colours."""
    frames: Tensor
    """int64 (up to FRAMES, T)."""
    change: Tensor
    """float (N, S): share of cells that each step changed."""
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
    row_key, cell = key[packed.target_example], packed.target_cell
    cells = packed.target_segments.query_starts.diff()
    colours = (uniform(row_key, DenoisingDraw.START, cell) * COLOURS).to(torch.int64)
    visited = inference_levels(len(table.beta), config.steps, config.time_map)
    kept = set(torch.linspace(0, config.steps, min(FRAMES, config.steps + 1)).round().int().tolist())
    frames = [colours]
    statistics = []
    features: Tensor | None = None
    told = how.inference if config.self_conditioning == "as-trained" else config.self_conditioning
    if how.features == "none":
        told = "none"
    for step, level in enumerate(visited):
        # One value for all rows: tensors of one element, which broadcast.
        alpha_bar, time = table.alpha_bar[level : level + 1], table.time[level : level + 1]
        gain = self_conditioning.gain(how, alpha_bar, step / max(1, config.steps - 1))
        if told == "two-pass":
            features = self_conditioning.features(how, network.denoise(packed, encoded, colours, time, None, gain))
        logits = network.denoise(packed, encoded, colours, time, features, gain)
        if told == "temporal":
            features = self_conditioning.features(how, logits)
        probabilities, best, following, entropy = _look(logits)
        if step + 1 < config.steps and config.sampler != "argmax":
            draw = uniform(row_key, DenoisingDraw.CATEGORICAL, step, cell)
            alpha_bar_next = table.alpha_bar[visited[step + 1]].expand(len(cell))
            if config.sampler == "draw":
                following = _categorical(probabilities, draw)
            elif config.sampler == "posterior":
                following = _categorical(
                    reverse_probabilities(probabilities, colours, alpha_bar.expand(len(cell)), alpha_bar_next), draw
                )
            else:
                noise = (uniform(row_key, DenoisingDraw.RENOISE, step, cell) * COLOURS).to(torch.int64)
                unsure = least_sure(best, packed.target_example, cells, 1 - alpha_bar_next)
                following = torch.where(unsure, noise, following)
        measured = _measured(following, colours, best, entropy)
        statistics.append(torch.segment_reduce(measured, "mean", lengths=cells, axis=0, initial=0.0))
        colours = following
        if step + 1 in kept:
            frames.append(colours)
    change, confidence, mean_entropy = torch.stack(statistics).unbind(-1)
    return Denoised(colours, torch.stack(frames), change, confidence, mean_entropy)


@maybe_compile
def _look(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities (T, 10), that of the likeliest colour, the likeliest colour, and the entropy, (T,)."""
    probabilities = logits.softmax(-1)
    best, likeliest = probabilities.max(-1)
    return probabilities, best, likeliest, -(probabilities * probabilities.clamp(min=1e-20).log()).sum(-1)


@maybe_compile
def _measured(following: Tensor, colours: Tensor, best: Tensor, entropy: Tensor) -> Tensor:
    return torch.stack([(following != colours).float(), best, entropy], -1)


def least_sure(confidence: Tensor, sequence: Tensor, cells: Tensor, share: Tensor) -> Tensor:
    """Which cells are among the `share` (T,) of their own grid with the lowest confidence (T,); bool (T,).

    `sequence` int64 (T,) rises and says which grid a cell belongs to, `cells` float (S,) how many a grid has. Ties go
    by position.
    """
    order = confidence.argsort(stable=True)
    order = order[sequence[order].argsort(stable=True)]
    start = cells.cumsum(0) - cells
    place = torch.arange(len(order), device=order.device)
    rank = torch.empty_like(place).scatter_(0, order, place) - start[sequence]
    return rank < (share * cells[sequence]).round()
