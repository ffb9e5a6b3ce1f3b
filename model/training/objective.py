"""The training objective: cross-entropy of the clean output, with the version's self-conditioning, and of its size."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.config.diffusion import SelfConditioning
from model.config.training import NoiseLevels, Train
from model.diffusion import self_conditioning
from model.diffusion.forward import add_noise
from model.diffusion.reverse import argmax_reverse_step, reverse_step
from model.diffusion.schedule import Levels
from model.diffusion.self_conditioning import blend
from model.network.denoiser import Denoiser, Encoded
from model.network.packing import Packed
from model.ops import dropout
from model.ops.compilation import maybe_compile
from model.ops.keyed_random import uniform
from model.ops.random_purposes import TrainingDraw
from model.puzzles.grids import COLOURS, LARGEST_SIDE

BUCKETS = 3

METRICS = (
    "loss",
    "batches",
    "cells",
    "cross_entropy",
    "right",
    "grids",
    "size_cross_entropy",
    "size_right",
    *(f"{name}_{bucket}" for bucket in range(BUCKETS) for name in ("cells", "cross_entropy", "right")),
)
"""Sums that `training_loss` returns, float (len(METRICS),). Buckets: thirds of the noise levels, cleanest first."""


class BatchRandomness(NamedTuple):
    """Scalars on the device that differ from batch to batch, so that one compiled step serves every batch."""

    key: Tensor
    """int64: stands for (seed, step, micro-batch)."""
    progress: Tensor
    """float in 0..1: see `self_conditioning.training_progress`."""


class StepMode(NamedTuple):
    """Which passes a batch takes."""

    estimate: bool
    """Whether a first pass makes an estimate."""
    conditioned: bool
    """Whether features reach the network: those of the estimate, or zeros without one."""


class Noised(NamedTuple):
    """The noise drawn for a batch."""

    hidden: Tensor
    """bool (S,): sequences whose input grid is hidden."""
    level: Tensor
    """int64 (T,): noise level of the targets' rows."""
    time: Tensor
    """float (T,): the time input of that level."""
    clean: Tensor
    """int64 (T,) colours."""
    noisy: Tensor
    """int64 (T,) colours."""


def training_loss(
    network: Denoiser, packed: Packed, table: Levels, config: Train, draw: BatchRandomness, mode: StepMode
) -> tuple[Tensor, Tensor]:
    """Loss (scalar) and METRICS of one packed batch."""
    noised = _noised(packed, table, config, draw.key)
    # One row each for the contexts, the estimate, and the pass with gradients.
    seeds = dropout.seeds(draw.key, 3, network.dropouts)
    encoded = network.encode(pixel_noise(packed, config, draw.key), noised.hidden, seeds[0])
    features, noisy, seen = _first_pass(network, packed, encoded, table, config, draw, mode, noised, seeds[1])
    time, gain = _time_and_gain(table, seen, config.self_conditioning, draw)
    every_turn = config.last_turn_share != 1
    *earlier, logits = network.denoise_turns(
        packed, encoded, noisy, time, features, gain, seeds[2], every_turn=every_turn
    )
    weights = config.size_loss_weight, config.loss_mean, config.last_turn_share
    return _measured(packed, logits, earlier, encoded.size_logits, noised, len(table.beta), *weights)


@functools.partial(maybe_compile, static=True)
def _noised(packed: Packed, table: Levels, config: Train, key: Tensor) -> Noised:
    sequence = torch.arange(len(packed.examples.task), device=key.device)
    row = torch.arange(len(packed.target_colour), device=key.device)
    hidden = (packed.examples.real > 0) & (
        uniform(key, TrainingDraw.HIDE_INPUT, sequence) < config.network.input_grid_dropout
    )
    lowest = 1 if config.self_conditioning.reverses else 0
    level = draw_levels(uniform(key, TrainingDraw.LEVEL, sequence), config.noise_levels, lowest, len(table.beta))
    level = level[packed.target_example]
    clean = packed.target_colour.clamp(max=COLOURS - 1)
    keep, replacement = uniform(key, TrainingDraw.KEEP, row), uniform(key, TrainingDraw.REPLACEMENT, row)
    noisy = add_noise(clean, table.alpha_bar[level], keep, replacement)
    return Noised(hidden, level, table.time[level], clean, noisy)


def draw_levels(draw: Tensor, config: NoiseLevels, lowest: int, levels: int) -> Tensor:
    """Noise levels `lowest` ... `levels` - 1, int64 (S,), from uniform draws in [0, 1), float (S,)."""
    pure = draw < config.pure_noise_share
    if config.pure_noise_share:  # What is left of the draw is uniform in [0, 1) again.
        draw = (draw - config.pure_noise_share).clamp(min=0) / max(1 - config.pure_noise_share, 1e-9)
    if config.exponent != 1:
        draw = draw ** (1 / config.exponent)
    steps = (draw * (levels - lowest)).to(torch.int64)
    level = lowest + steps.clamp(max=levels - lowest - 1)  # A power of the draw may be rounded to 1.
    return torch.where(pure, levels - 1, level)


@functools.partial(maybe_compile, static=True)
def _time_and_gain(
    table: Levels, level: Tensor, conditioning: SelfConditioning, draw: BatchRandomness
) -> tuple[Tensor, Tensor]:
    """Time input, and strength of self-conditioning; (T,) each."""
    return table.time[level], self_conditioning.gain(conditioning, table.alpha_bar[level], draw.progress)


@functools.partial(maybe_compile, static=True)
def _measured(
    packed: Packed,
    logits: Tensor,
    earlier: list[Tensor],
    size_logits: Tensor,
    noised: Noised,
    levels: int,
    size_weight: float,
    mean: str,
    last_turn_share: float | None,
) -> tuple[Tensor, Tensor]:
    """Loss and METRICS; of `earlier` turns' logits the loss alone."""
    real = packed.target_real
    cross_entropy = functional.cross_entropy(logits, noised.clean, reduction="none") * real
    right = (logits.argmax(-1) == noised.clean) & real
    counted = (packed.examples.real > 0) & ~noised.hidden
    size_cross_entropy, size_right, grids = size_loss(packed, size_logits, counted)
    bucket = (noised.level * BUCKETS).div(levels, rounding_mode="floor")
    with torch.autocast(logits.device.type, enabled=False):  # Counts are whole numbers.
        parts = torch.stack([real.float(), cross_entropy.detach(), right.float()], -1)
        by_bucket = functional.one_hot(bucket, BUCKETS).float().T @ parts
    cells, total, right_cells = by_bucket.sum(0)
    losses = [functional.cross_entropy(turn, noised.clean, reduction="none") * real for turn in earlier]
    means = [_mean(packed, x, cells, mean) for x in (*losses, cross_entropy)]
    loss = mean_over_turns(means, last_turn_share) + size_weight * size_cross_entropy / grids
    one = torch.ones((), device=loss.device)
    sums = [loss, one, cells, total, right_cells, grids, size_cross_entropy, size_right]
    return loss, torch.cat([torch.stack([s.detach().float() for s in sums]), by_bucket.flatten()])


def _mean(packed: Packed, cross_entropy: Tensor, cells: Tensor, mean: str) -> Tensor:
    """The mean of the cross-entropy (T,), 0 at padding, that Train.loss_mean names; `cells` counts the real cells."""
    if mean == "cells":
        return cross_entropy.sum() / cells
    size = (packed.examples.output_height * packed.examples.output_width).clamp(min=1)
    weight = size[packed.target_example].float() ** (-1.0 if mean == "examples" else -0.5)
    return (cross_entropy * weight).sum() / (weight * packed.target_real).sum()


def _first_pass(
    network: Denoiser,
    packed: Packed,
    encoded: Encoded,
    table: Levels,
    config: Train,
    draw: BatchRandomness,
    mode: StepMode,
    noised: Noised,
    seeds: Tensor,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Features, noisy grid and level of the pass with gradients."""
    conditioning, key = config.self_conditioning, draw.key
    level, clean, noisy = noised.level, noised.clean, noised.noisy
    conditioned = mode.conditioned and conditioning.features != "none"
    nothing = torch.zeros(len(clean), COLOURS, device=clean.device) if conditioned else None
    if not mode.estimate:
        return nothing, noisy, level
    with torch.no_grad():
        logits = network.denoise(packed, encoded.detached(), noisy, noised.time, None, None, seeds)
        row = torch.arange(len(clean), device=clean.device)
        if conditioning.training == "blend":  # Version ledger, v5.
            share = uniform(key, TrainingDraw.BLEND_SHARE, packed.target_example)
            mixed = blend(logits, clean, share, uniform(key, TrainingDraw.BLEND_CELL, row))
            keep, replacement = (
                uniform(key, TrainingDraw.RENOISE_KEEP, row),
                uniform(key, TrainingDraw.RENOISE_REPLACEMENT, row),
            )
            return nothing, add_noise(mixed, table.alpha_bar[level], keep, replacement), level
        features = self_conditioning.features(conditioning, logits) if conditioned else None
        if conditioning.training == "reverse-step":
            return (
                features,
                reverse_step(logits, noisy, level, table, uniform(key, TrainingDraw.REVERSE_STEP, row)),
                level - 1,
            )
        if conditioning.training == "argmax-reverse-step":
            return features, argmax_reverse_step(logits, noisy, level, table), level - 1
        return features, noisy, level


def size_loss(packed: Packed, size_logits: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the cross-entropies of height and width, sizes right, and the grids counted."""
    height, width = packed.examples.output_height, packed.examples.output_width
    swapped = torch.stack([width, height], -1)
    straight = torch.stack([height, width], -1)
    size = torch.where(packed.view_swaps[:, None], swapped, straight)
    classes = (size - 1).clamp(0, LARGEST_SIDE - 1)  # Padding sequences may be any size; they do not count.
    losses = functional.cross_entropy(size_logits.float().flatten(0, 1), classes.flatten(), reduction="none")
    right = (size_logits.argmax(-1) == classes).all(-1) & counted
    return (losses.view(-1, 2).sum(-1) * counted).sum(), right.sum(), counted.sum().clamp(min=1)


def pixel_noise(packed: Packed, config: Train, key: Tensor) -> Packed:
    """Recolour a share of the black input cells of some examples, rounded down but at least one (ledger 2.2)."""
    if config.pixel_noise.rate == 0 or config.pixel_noise.share == 0:
        return packed
    example, black = packed.context_example, packed.context_colour == 0
    row = torch.arange(len(example), device=key.device)
    count = torch.zeros(len(packed.examples.task), dtype=torch.float64, device=key.device)
    noisy_cells = (count.index_add(0, example, black.double()) * config.pixel_noise.share).floor().clamp(min=1)
    # So many of each example's black cells: those with the lowest draws. Its rows lie together.
    order = uniform(key, TrainingDraw.PIXEL_NOISE_CELL, row).masked_fill(~black, 2.0).argsort(stable=True)
    order = order[example[order].argsort(stable=True)]
    rank = torch.empty_like(row).scatter_(0, order, row) - torch.searchsorted(example, example)
    noisy = (
        black
        & (rank < noisy_cells[example])
        & (uniform(key, TrainingDraw.PIXEL_NOISE, example) < config.pixel_noise.rate)
    )
    colour = 1 + (uniform(key, TrainingDraw.PIXEL_NOISE_COLOUR, row) * (COLOURS - 1)).to(torch.int64)
    return packed._replace(context_colour=torch.where(noisy, colour, packed.context_colour))


def mean_over_turns(losses: list[Tensor], last_share: float | None) -> Tensor:
    """Weighted mean of the turns' losses, scalars: `last_share` of it the last one's, the others evenly; None: all."""
    *earlier, last = losses
    if not earlier:
        return last
    share = 1 / len(losses) if last_share is None else last_share
    return share * last + (1 - share) / len(earlier) * sum(earlier[1:], earlier[0])
