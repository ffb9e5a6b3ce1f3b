"""Intervals and tests over tasks.

Tasks are what varies: a score is a mean over them, and another draw of tasks would give another. Values are shares of
0..1 per task; several seeds of one experiment answer the same tasks, so that they are averaged per task before anything
is resampled: they are not more tasks. The variance between seeds is added separately, see `seed_error`.

Few values occur (with one test grid 0 and 1), so that a resample is drawn as counts of the distinct values: the same
distribution as drawing task by task, at a cost that does not depend on the number of tasks.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit
from scipy.stats import binom

Floats = NDArray[np.float64]
LEVEL = 0.95
MOST_SUMS = 10_000_000
"""Work of an exact test, in sums times the tasks that share a difference: beyond, signs are drawn."""
_RESAMPLE, _FLIP, _SEEDS = range(3)


class Spread(NamedTuple):
    """Standard error from the variation between seeds, in addition to that between tasks."""

    error: float
    """Standard error of the mean."""
    doubt: float
    """How uncertain `error` squared is: the square of what it was estimated from, over the degrees of freedom. Above 0
    also where the estimate of `error` is 0, which does not say that seeds do not differ."""
    freedom: float = 1.0
    """Fewest degrees of freedom of what it was estimated from."""


NO_SPREAD = Spread(0.0, 0.0, np.inf)


class Difference(NamedTuple):
    """B against A over the same tasks."""

    mean: float
    low: float
    high: float
    """95 % interval."""
    p: float
    """Two-sided, of the permutation test."""
    seed_error: float = 0.0
    """Standard error from the variation between seeds, which more tasks would not reduce."""

    @property
    def shown(self) -> bool:
        """Whether the data show a difference: the interval leaves out zero, and the test is at most 0.05."""
        return (self.low > 0 or self.high < 0) and self.p <= 1 - LEVEL


def bootstrap_interval(
    values: Floats, resamples: int, seed: int = 0, spread: Spread = NO_SPREAD
) -> tuple[float, float]:
    """95 % percentile interval of the mean of per-task values (tasks,), resampling tasks.

    It is never narrower than where no task or every task is solved, all resamples being equal: there it is the exact
    one of Clopper and Pearson (1934), and none of 120 solved is compatible with a true share of 3 %. With few solved
    tasks it is somewhat short: it held the truth in 91 to 94 % of 2,000 draws where 4 to 6 of 120 were expected.

    Raises ValueError without tasks.
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one task")
    low, high = _interval(_resampled(values, resamples, seed), spread, seed)
    unseen = _unseen(len(values))
    return max(0.0, min(low, 1 - unseen)), min(1.0, max(high, unseen))


def paired_difference(a: Floats, b: Floats, resamples: int, seed: int = 0, *, paired_seeds: bool = False) -> Difference:
    """B - A over the same tasks, in the same order: (tasks,) each, or (seeds, tasks) with any number of seeds.

    With `paired_seeds` seed i of A belongs to seed i of B: one training that answered in two ways, or two trainings of
    a seed, which share held-out tasks, initial weights, examples and views. What goes well raises both, so that only
    how much the seeds' differences vary is doubt. Otherwise the seeds of A and of B are independent.

    The interval resamples tasks, the test flips the signs of the tasks' differences: under the null hypothesis either
    experiment could have had either value of a task. The test is exact for any number of tasks and any correlation;
    where only a handful of tasks differ, the interval is too short, and the test decides (`Difference.shown`).
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise ValueError(f"{a.shape[1]} and {b.shape[1]} tasks; a paired comparison needs the same, at least one")
    values = (b.mean(0) - a.mean(0)).round(12)  # Equal means of seeds may differ by rounding.
    if paired_seeds:
        if a.shape != b.shape:
            raise ValueError(f"{len(a)} and {len(b)} seeds; pairs need equal numbers of them")
        spread = seed_error(b - a)
    else:
        of_a, of_b = seed_error(a), seed_error(b)
        error = float(np.hypot(of_a.error, of_b.error))
        spread = Spread(error, of_a.doubt + of_b.doubt, min(of_a.freedom, of_b.freedom))
    low, high = _interval(_resampled(values, resamples, seed), spread, seed)
    if not np.any(values):  # Agreement on every task here does not mean agreement on all tasks.
        unseen = _unseen(len(values))
        low, high = min(low, -unseen), max(high, unseen)
    p = permutation_p(values, resamples, seed, spread)
    return Difference(float(values.mean()), max(-1.0, low), min(1.0, high), p, spread.error)


def permutation_p(values: Floats, resamples: int, seed: int = 0, spread: Spread = NO_SPREAD) -> float:
    """Two-sided p-value of a mean of differences (tasks,) under random signs.

    Exact without a spread and with few distinct sums, as shares of solved grids have; else of `resamples` draws, and
    then at least 1 / (resamples + 1).
    """
    sizes, counts = np.unique(np.abs(values[values != 0]).round(12), return_counts=True)
    if spread.doubt == 0 and (exact := _sums(sizes, counts)):
        sums, chances = exact
        return min(1.0, float(chances[np.abs(sums) >= abs(values.sum()) - 1e-7].sum()))
    draws = _generator(seed, _FLIP)
    positive = draws.binomial(counts, 0.5, size=(resamples, len(counts)))
    means = (2 * positive - counts) @ sizes / len(values)
    extreme = np.abs(_spread(means, spread, seed)) >= abs(values.mean()) - 1e-9
    return float((1 + extreme.sum()) / (1 + resamples))


def _sums(sizes: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats] | None:
    """Every sum of the values under random signs and its probability; None if there are too many sums."""
    sums, chances = np.zeros(1), np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        positive = np.arange(count + 1)
        every = np.add.outer(sums, size * (2 * positive - count)).round(8)
        weights = np.multiply.outer(chances, binom.pmf(positive, count, 0.5))
        sums, index = np.unique(every, return_inverse=True)
        chances = np.bincount(index.ravel(), weights.ravel()).astype(np.float64)
        if len(sums) * (counts.max() + 1) > MOST_SUMS:
            return None
    return sums, chances


def seed_error(values: Floats) -> Spread:
    """Standard error of a mean over (seeds, tasks) that comes from differences between whole trainings.

    By the analysis of variance of a two-way table: the variance of the seeds' scores, less what the chances of single
    tasks make of it, which resampling tasks covers already. None for one seed: nothing is known of others then, and an
    interval is about the one training, not about its recipe.
    """
    seeds, tasks = values.shape
    if seeds == 1 or tasks == 1:
        return NO_SPREAD
    residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    chance = (residual**2).sum() / ((seeds - 1) * (tasks - 1)) / tasks
    varied = values.mean(1).var(ddof=1)
    error = float(np.sqrt(max(0.0, varied - chance) / seeds))
    return Spread(error, float((varied / seeds) ** 2 / (seeds - 1)), seeds - 1)


def holm(p: list[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the order given."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def _unseen(tasks: int) -> float:
    """How frequent an event may be that none of so many tasks showed: the edge of Clopper and Pearson's interval."""
    return 1.0 - float(((1 - LEVEL) / 2) ** (1 / tasks))


def _resampled(values: Floats, resamples: int, seed: int) -> Floats:
    distinct, counts = np.unique(values, return_counts=True)
    drawn = _generator(seed, _RESAMPLE).multinomial(len(values), counts / len(values), size=resamples)
    return np.asarray(drawn @ distinct / len(values), dtype=np.float64)


def _interval(means: Floats, spread: Spread, seed: int) -> tuple[float, float]:
    low, high = np.quantile(_spread(means, spread, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _spread(means: Floats, spread: Spread, seed: int) -> Floats:
    """With the seeds' error added, each normal quantile as Student's at Satterthwaite's freedom (1946).

    A handful of seeds estimates the variation between seeds badly; without this, false differences would appear.
    """
    if spread.doubt == 0:
        return means
    noisy = means + spread.error * _generator(seed, _SEEDS).standard_normal(len(means))
    variance = means.var() + spread.error**2
    if variance == 0:
        return means
    # `error` leaves out what tasks explain, so that the quotient could fall below the freedom of every part.
    freedom = max(spread.freedom, variance**2 / spread.doubt)
    deviation = (noisy - means.mean()) / np.sqrt(variance)
    students = np.copysign(stdtrit(freedom, ndtr(-np.abs(deviation))), deviation)  # Exact in both tails.
    return np.asarray(means.mean() + np.sqrt(variance) * students, dtype=np.float64)


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, purpose]))
