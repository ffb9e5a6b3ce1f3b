"""How scores grow with the minutes of a training: the line through the best at each cost, and where it would lead."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
Floats = NDArray[np.float64]


class Run(NamedTuple):
    """One training and what it solves."""

    name: str
    size: str
    minutes: float
    device: str
    shares: Floats
    """Share of solved test grids of each task (tasks,), 0..1, tasks in the same order for all runs."""
    interval: tuple[float, float]
    """95 %, of the mean."""


class Estimate(NamedTuple):
    """A value and its 95 % interval over draws of tasks."""

    value: float
    low: float
    high: float


class Line(NamedTuple):
    """Share solved, 0..1, as a line in the logarithm of the minutes."""

    runs: list[Run]
    """Those it goes through, cheapest first."""
    doubling: Estimate
    """What twice the minutes add."""
    at: dict[float, Estimate]
    """Share at each number of minutes asked for."""


def frontier(runs: Sequence[Run]) -> list[Run]:
    """The runs that solve more than every run of fewer or as many minutes, cheapest first."""
    best: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.minutes, -run.shares.mean())):
        if not best or run.shares.mean() > best[-1].shares.mean():
            best.append(run)
    return best


def line(runs: Sequence[Run], minutes: Sequence[float]) -> Line:
    """Least squares through the frontier of `runs`; intervals resample tasks, the same ones for all runs.

    Each resample has a frontier of its own: the choice of runs is part of the estimate. They do not hold what another
    seed would give, nor that growth slows down. Raises ValueError for fewer than two runs
    on the frontier.
    """
    chosen = frontier(runs)
    if len(chosen) < 2:
        raise ValueError(f"a line needs two runs or more on the frontier, not {len(chosen)}")
    ordered = sorted(runs, key=lambda run: (run.minutes, -run.shares.mean()))
    values = np.array([run.shares for run in ordered])
    tasks = values.shape[1]
    draws = np.random.Generator(np.random.Philox(key=[0, tasks])).multinomial(tasks, [1 / tasks] * tasks, RESAMPLES)
    means = np.vstack([values.mean(1), draws @ values.T / tasks])  # (1 + resamples, runs), the data first
    places = np.log2([run.minutes for run in ordered])
    # Of each row, the runs above every cheaper one; the runs are in the order of their minutes.
    best = np.maximum.accumulate(np.hstack([np.full((len(means), 1), -1.0), means[:, :-1]]), axis=1)
    weights = (means > best).astype(float)
    weights[weights.sum(1) < 2] = np.nan  # No line goes through one run.
    middle, level = (weights @ places) / weights.sum(1), (weights * means).sum(1) / weights.sum(1)
    offsets = weights * (places - middle[:, None])
    slopes = (offsets * means).sum(1) / (offsets * offsets).sum(1)
    at = {m: _estimate(level + slopes * (np.log2(m) - middle)) for m in minutes}
    return Line(chosen, _estimate(slopes), at)


def _estimate(values: Floats) -> Estimate:
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))
