"""The noise schedule: how much of a grid survives at each noise level (version ledger 2.2).

With u = t / T and offset s, alpha_bar falls with the squared cosine of Nichol & Dhariwal (2021) from nearly 1 to a
final value a:

    r(u) = cos^2((u + s) / (1 + s) * pi / 2)
    alpha_bar_t = a + (1 - a) r(u) / r(0)
    beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}

Level t = 1..T is stored at array index t - 1: index 0 is the cleanest level, but not free of noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.config.diffusion import Noise


class Schedule(NamedTuple):
    """The schedule at every noise level, float64 (T,) each."""

    alpha_bar: Tensor
    """Probability that a cell has kept its colour up to this level, in (0, 1), falling."""
    beta: Tensor
    """Probability that the step to this level replaces a cell's colour, in (0, 1)."""
    log_snr: Tensor
    """log(alpha_bar / (1 - alpha_bar))."""


def cosine_schedule(config: Noise) -> Schedule:
    """The schedule of a configuration with T = `config.steps` levels."""
    u = torch.arange(config.steps + 1, dtype=torch.float64) / config.steps
    r = torch.cos((u + config.offset) / (1 + config.offset) * torch.pi / 2) ** 2
    alpha_bar = config.alpha_bar_final + (1 - config.alpha_bar_final) * r / r[0]
    alpha_bar, previous = alpha_bar[1:], alpha_bar[:-1]
    return Schedule(alpha_bar, 1 - alpha_bar / previous, torch.log(alpha_bar) - torch.log1p(-alpha_bar))


class Levels(NamedTuple):
    """The schedule as tables on the device, to be indexed by noise level; float32 (T,) each."""

    alpha_bar: Tensor
    alpha_bar_previous: Tensor
    """alpha_bar of the next cleaner level; 1 at index 0."""
    beta: Tensor
    time: Tensor
    """What the network receives as its time input."""


def levels(schedule: Schedule, time_input: str, device: torch.device) -> Levels:
    """Put a schedule on `device`. `time_input` is "index", "log-alpha-bar" or "log-snr"."""
    index = torch.arange(len(schedule.beta), dtype=torch.float64)
    time = {"index": index, "log-alpha-bar": schedule.alpha_bar.log(), "log-snr": schedule.log_snr}[time_input]
    previous = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alpha_bar[:-1]])
    tables = (schedule.alpha_bar, previous, schedule.beta, time)
    return Levels(*(table.to(device, torch.float32) for table in tables))


def inference_levels(levels: int, steps: int, time_map: str = "spaced") -> list[int]:
    """Indices of the noise levels that `steps` denoising steps visit, from the noisiest to index 0 (ledger, v2).

    `time_map` "spaced" spaces them evenly over all `levels`; "raw-index" is the lab's choice before v2, the lowest
    indices steps - 1, ..., 0, whatever the number of levels.
    """
    if time_map == "raw-index":
        return list(range(steps - 1, -1, -1))
    if steps == 1:
        return [levels - 1]
    return [round((levels - 1) * (steps - 1 - i) / (steps - 1)) for i in range(steps)]
