"""The distinct grids that the views of one test input propose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid, grid_key


class Proposals(NamedTuple):
    """Proposals of the views of one test input, in their order; recounts compare no cells."""

    candidates: tuple[Grid, ...]
    """The distinct grids, in the order of their first view."""
    choice: NDArray[np.int64]
    """(views,): index of the candidate that a view proposes."""
    view: NDArray[np.int64]
    """(views,): which views these are, rising; one that failed is not among them."""
    size: NDArray[np.int64]
    """(candidates,): equal for candidates of equal size."""
    confidence: NDArray[np.float64]
    """(views,): mean probability of the likeliest colours at the last step."""
    visited: NDArray[np.float64]
    """(views,): share of the denoising steps that were at the grid proposed."""
    log_likelihood: NDArray[np.float64]
    """(candidates,): mean over views, noise levels and cells, in nats; NaN for a candidate that has none."""


def collect_proposals(
    grids: Sequence[Grid],
    view: Sequence[int] | None = None,
    confidence: Sequence[float] | None = None,
    visited: Sequence[float] | None = None,
    log_likelihood: Sequence[float] | None = None,
) -> Proposals:
    """Number the distinct grids; without `view` it is 0, 1, ..., without `confidence` or `visited` every view has 1.

    `log_likelihood` (views,) holds those of candidates at one of their views, or at one for each of several networks,
    whose mean counts; NaN elsewhere.
    """
    keys = [grid_key(grid) for grid in grids]
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    first = dict(reversed(list(zip(keys, grids, strict=True))))
    sizes = {shape: i for i, shape in enumerate(dict.fromkeys(shape for shape, _ in index))}
    ones, choice = np.ones(len(grids)), np.array([index[key] for key in keys], dtype=np.int64)
    values = np.full(len(grids), np.nan) if log_likelihood is None else np.asarray(log_likelihood, dtype=np.float64)
    known = ~np.isnan(values)
    count = np.bincount(choice[known], minlength=len(index))
    total = np.bincount(choice[known], values[known], minlength=len(index))
    return Proposals(
        tuple(first[key] for key in index),
        choice,
        np.arange(len(grids)) if view is None else np.asarray(view, dtype=np.int64),
        np.array([sizes[shape] for shape, _ in index], dtype=np.int64),
        ones if confidence is None else np.asarray(confidence, dtype=np.float64),
        ones if visited is None else np.asarray(visited, dtype=np.float64),
        np.where(count > 0, total / np.maximum(count, 1), np.nan),
    )
