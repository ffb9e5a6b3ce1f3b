"""From the views' answers to two attempts: where each view answers, then which grids win."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid

Rule = Literal["most-frequent", "confidence", "most-visited"]


class Proposals(NamedTuple):
    """What the views of one test input propose, in their order; a replay costs no look at a cell."""

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


def visited_share(lock: int, steps: int) -> float:
    """Share of `steps` at whose end the last grid stood already; `lock` is the last step that changed it, or 0."""
    return min(steps, steps - lock + 1) / steps


def vote(given: Proposals, rule: Rule, size_first: bool = False, views: int = 0) -> list[int]:
    """Candidates by falling weight, the winner first; the first two are the attempts.

    Ties go to the candidate of the earlier view. `size_first`: the candidates of the heaviest size go before all
    others. `views`: only those numbered below it vote; 0 for all.
    """
    choice = given.choice[: given.view.searchsorted(views)] if views else given.choice
    weights = {"most-frequent": None, "confidence": given.confidence, "most-visited": given.visited}[rule]
    weight = np.bincount(choice, None if weights is None else weights[: len(choice)]).astype(np.float64)
    other_size = np.zeros(len(weight), dtype=bool)
    if size_first and len(weight):
        size = given.size[: len(weight)]
        other_size = size != np.bincount(size, weight).argmax()
    # Candidates are numbered by their first view, so a stable sort breaks ties as promised.
    return [int(i) for i in np.lexsort((-weight, other_size))]


def attempts(given: Proposals, rule: Rule, size_first: bool = False, views: int = 0) -> list[Grid]:
    """The two heaviest distinct grids, or the one there is."""
    return [given.candidates[i] for i in vote(given, rule, size_first, views)[:2]]
