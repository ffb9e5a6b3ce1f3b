"""The distinct grids that the views of one test input propose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid


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


def collect_proposals(
    grids: Sequence[Grid],
    view: Sequence[int] | None = None,
    confidence: Sequence[float] | None = None,
    visited: Sequence[float] | None = None,
) -> Proposals:
    """Number the distinct grids; without `view` it is 0, 1, ..., without `confidence` or `visited` every view has 1."""
    keys = [(grid.shape, grid.tobytes()) for grid in grids]
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    first = dict(reversed(list(zip(keys, grids, strict=True))))
    sizes = {shape: i for i, shape in enumerate(dict.fromkeys(shape for shape, _ in index))}
    ones = np.ones(len(grids))
    return Proposals(
        tuple(first[key] for key in index),
        np.array([index[key] for key in keys], dtype=np.int64),
        np.arange(len(grids)) if view is None else np.asarray(view, dtype=np.int64),
        np.array([sizes[shape] for shape, _ in index], dtype=np.int64),
        ones if confidence is None else np.asarray(confidence, dtype=np.float64),
        ones if visited is None else np.asarray(visited, dtype=np.float64),
    )
