"""Uniform-noise discrete diffusion with a cosine schedule (version ledger 2.2).

A cell keeps its colour to noise level t with probability alpha_bar_t; otherwise it is replaced by a colour drawn
uniformly from all ten, its own included. Array index i stands for level t = i + 1, so index 0 is not free of noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.config.experiment import Noise
from model.puzzles.grids import COLOURS


class Schedule(NamedTuple):
    """Per noise level, float64 (T,)."""

    alpha_bar: Tensor
    """Probability that a cell was not replaced up to this level, falling."""
    beta: Tensor
    """Probability that a cell is replaced at this level."""
    log_snr: Tensor
    """log(alpha_bar / (1 - alpha_bar))."""


def schedule(config: Noise) -> Schedule:
    """The cosine schedule, from nearly no noise to alpha_bar_final."""
    u = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
    r = torch.cos((u + config.offset) / (1 + config.offset) * torch.pi / 2) ** 2
    alpha_bar = config.alpha_bar_final + (1 - config.alpha_bar_final) * r / r[0]
    alpha_bar, previous = alpha_bar[1:], alpha_bar[:-1]
    return Schedule(alpha_bar, 1 - alpha_bar / previous, torch.log(alpha_bar) - torch.log1p(-alpha_bar))


def add_noise(colours: Tensor, alpha_bar: Tensor, keep: Tensor, replacement: Tensor) -> Tensor:
    """Draw x_t of clean colours, int (cells,), given alpha_bar of each cell, float (cells,).

    `keep` and `replacement` are uniform draws from [0, 1), float (cells,).
    """
    return torch.where(keep < alpha_bar, colours, (replacement * COLOURS).to(colours.dtype))


def posterior(estimate: Tensor, colours: Tensor, alpha_bar_previous: Tensor, beta: Tensor) -> Tensor:
    """q(x_{t-1} | x_t, estimate of x_0): float (cells, 10), rows sum to 1.

    `estimate` are probabilities of the clean colour (cells, 10), `colours` is x_t (cells,), `alpha_bar_previous` and
    `beta` belong to t-1 and t, (cells,). Since the kernel is uniform,
    q(x_{t-1}=j | x_t=k) is proportional to [(1-beta) 1(j=k) + beta/10] [alpha_bar_{t-1} p_j + (1-alpha_bar_{t-1})/10].
    """
    likelihood = torch.nn.functional.one_hot(colours.long(), COLOURS) * (1 - beta)[:, None] + beta[:, None] / COLOURS
    prior = estimate * alpha_bar_previous[:, None] + (1 - alpha_bar_previous)[:, None] / COLOURS
    joint = likelihood * prior
    return joint / joint.sum(-1, keepdim=True)


def reverse_probabilities(probabilities: Tensor, colours: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """p(x_s | x_t) = sum over x_0 of q(x_s | x_t, x_0) p(x_0 | x_t), exact for any stride t -> s; float (T, 10).

    `probabilities` are p(x_0 | x_t), `colours` is x_t, `alpha_bar` belongs to t and `alpha_bar_next` to the
    less noisy s. `posterior` expects x_0's probabilities without the evidence of x_t: q(x_t | x_0) is divided out.
    """
    own = torch.nn.functional.one_hot(colours, COLOURS) * alpha_bar[:, None]
    prior = probabilities / (own + (1 - alpha_bar)[:, None] / COLOURS)
    beta = 1 - alpha_bar / alpha_bar_next
    return posterior(prior / prior.sum(-1, keepdim=True), colours, alpha_bar_next, beta)


def inference_levels(levels: int, steps: int, time_map: str = "spaced") -> list[int]:
    """Indices of the noise levels that `steps` denoising steps visit, from the noisiest to index 0 (ledger, v2).

    With `time_map` 'raw-index' those that the lab named before v2: steps - 1 ... 0, whatever the number of levels.
    """
    if time_map == "raw-index":
        return list(range(steps - 1, -1, -1))
    if steps == 1:
        return [levels - 1]
    return [round((levels - 1) * (steps - 1 - i) / (steps - 1)) for i in range(steps)]


class Levels(NamedTuple):
    """The schedule on the device, float32 (T,)."""

    alpha_bar: Tensor
    alpha_bar_previous: Tensor
    beta: Tensor
    time: Tensor
    """The network's time input at each level."""


def levels(schedule: Schedule, time_input: str, device: torch.device) -> Levels:
    """Tables for the network's time input: the index, log alpha_bar or log-SNR."""
    index = torch.arange(len(schedule.beta), dtype=torch.float64)
    time = {"index": index, "log-alpha-bar": schedule.alpha_bar.log(), "log-snr": schedule.log_snr}[time_input]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alpha_bar[:-1]])
    tables = (schedule.alpha_bar, previous, schedule.beta, time)
    return Levels(*(table.to(device, torch.float32) for table in tables))


def reverse_step(logits: Tensor, noisy: Tensor, level: Tensor, table: Levels, draw: Tensor) -> Tensor:
    """The grid one level on, int64 (T,), by uniform draws from [0, 1), (T,).

    Drawn, as was meant: the argmax that the lab took is the grid itself at every level but the first (ledger, B3).
    """
    before = table.alpha_bar_previous[level]
    probabilities = reverse_probabilities(logits.softmax(-1), noisy, table.alpha_bar[level], before)
    return (probabilities.cumsum(-1) <= draw[:, None]).sum(-1).clamp(max=COLOURS - 1)
