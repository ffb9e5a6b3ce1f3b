"""Intervals over tasks."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bootstrap_interval(values: Floats, resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of per-task values (tasks,), resampling tasks. Needs at least one task."""
    if len(values) == 0:
        raise ValueError("an interval needs at least one task")
    draws = np.random.Generator(np.random.Philox(key=seed))
    means = [values[draws.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
