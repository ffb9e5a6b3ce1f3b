"""Denoising of packed targets from pure noise. Every draw is a function of (seed, grid, view, attempt, step, cell).

Each step asks the network for its estimate of the clean grid, from which a sampler makes the grid of the next, less
noisy level; the last step takes the likeliest colours. No step waits for the device.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model.config.diffusion import SelfConditioning
from model.config.evaluation import Evaluation
from model.diffusion import self_conditioning
from model.diffusion.schedule import Levels, inference_levels
from model.inference.samplers import SAMPLERS, Step
from model.network.denoiser import Denoiser
from model.network.packing import Packed
from model.ops.compilation import maybe_compile
from model.ops.keyed_random import uniform
from model.ops.random_purposes import DenoisingDraw
from model.puzzles.grids import COLOURS

FRAMES = 8
"""Grids kept of a denoising, evenly spaced, the start and the last included."""


class Denoised(NamedTuple):
    """Result of a denoising. S sequences, T target rows, N steps."""

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
    size_logits: Tensor
    """float (S, 2, 30): see `denoiser.Encoded`."""


@torch.no_grad()
def denoise(
    network: Denoiser,
    packed: Packed,
    table: Levels,
    conditioning: SelfConditioning,
    config: Evaluation,
    key: Tensor,
) -> Denoised:
    """Denoise every target of `packed`; `key` int64 (S,) stands for (seed, grid, view, attempt).

    `table` are the noise levels of the training, `conditioning` is how the network was conditioned on its estimate.
    """
    encoded = network.encode(packed)
    row_key, cell = key[packed.target_example], packed.target_cell
    cells = packed.target_segments.query_starts.diff()
    colours = (uniform(row_key, DenoisingDraw.START, cell) * COLOURS).to(torch.int64)
    visited = inference_levels(len(table.beta), config.steps, config.time_map)
    kept = set(torch.linspace(0, config.steps, min(FRAMES, config.steps + 1)).round().int().tolist())
    frames = [colours]
    statistics = []
    features: Tensor | None = None
    mode = conditioning_mode(conditioning, config)
    for step, level in enumerate(visited):
        # One value for all rows: tensors of one element, which broadcast.
        alpha_bar, time = table.alpha_bar[level : level + 1], table.time[level : level + 1]
        gain = self_conditioning.gain(conditioning, alpha_bar, step / max(1, config.steps - 1))
        if mode == "two-pass":
            first_logits = network.denoise(packed, encoded, colours, time, None, gain)
            features = self_conditioning.features(conditioning, first_logits)
        logits = network.denoise(packed, encoded, colours, time, features, gain)
        if mode == "temporal":
            features = self_conditioning.features(conditioning, logits)
        probabilities, confidence, likeliest, entropy = _estimate(logits)
        next_colours = likeliest
        if step + 1 < config.steps:
            now = Step(
                colours,
                probabilities,
                likeliest,
                confidence,
                alpha_bar.expand(len(cell)),
                table.alpha_bar[visited[step + 1]].expand(len(cell)),
                packed.target_example,
                cells,
                partial(_draw, row_key, step, cell),
            )
            next_colours = SAMPLERS[config.sampler](now)
        measured = _measure(next_colours, colours, confidence, entropy)
        # Unsafe is without the check of the lengths, which would wait for the device.
        statistics.append(torch.segment_reduce(measured, "mean", lengths=cells, axis=0, unsafe=True, initial=0.0))
        colours = next_colours
        if step + 1 in kept:
            frames.append(colours)
    change, mean_confidence, mean_entropy = torch.stack(statistics).unbind(-1)
    return Denoised(colours, torch.stack(frames), change, mean_confidence, mean_entropy, encoded.size_logits)


def conditioning_mode(conditioning: SelfConditioning, config: Evaluation) -> str:
    """The estimate that the network is conditioned on: 'temporal', 'two-pass' or 'none'."""
    if conditioning.features == "none":
        return "none"
    return conditioning.inference if config.self_conditioning == "as-trained" else config.self_conditioning


def _draw(key: Tensor, step: int, cell: Tensor, purpose: DenoisingDraw) -> Tensor:
    return uniform(key, purpose, step, cell)


@maybe_compile
def _estimate(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities (T, 10), that of the likeliest colour, the likeliest colour, and the entropy, (T,)."""
    probabilities = logits.softmax(-1)
    best, likeliest = probabilities.max(-1)
    return probabilities, best, likeliest, -(probabilities * probabilities.clamp(min=1e-20).log()).sum(-1)


@maybe_compile
def _measure(next_colours: Tensor, colours: Tensor, confidence: Tensor, entropy: Tensor) -> Tensor:
    return torch.stack([(next_colours != colours).float(), confidence, entropy], -1)
