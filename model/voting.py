"""From the views' answers to two attempts: where each view answers, then which grids win."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.grids import LARGEST_SIDE, Grid

Size = tuple[int, int]
Rule = Literal["most-frequent", "confidence", "most-visited"]


class Ballots(NamedTuple):
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


def ballots(
    grids: Sequence[Grid],
    view: Sequence[int] | None = None,
    confidence: Sequence[float] | None = None,
    visited: Sequence[float] | None = None,
) -> Ballots:
    """Number the distinct grids; without `view` it is 0, 1, ..., without `confidence` or `visited` every view has 1."""
    keys = [(grid.shape, grid.tobytes()) for grid in grids]
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    first = dict(reversed(list(zip(keys, grids, strict=True))))
    sizes = {shape: i for i, shape in enumerate(dict.fromkeys(shape for shape, _ in index))}
    ones = np.ones(len(grids))
    return Ballots(
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


def vote(given: Ballots, rule: Rule, size_first: bool = False, views: int = 0) -> list[int]:
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


def attempts(given: Ballots, rule: Rule, size_first: bool = False, views: int = 0) -> list[Grid]:
    """The two heaviest distinct grids, or the one there is."""
    return [given.candidates[i] for i in vote(given, rule, size_first, views)[:2]]


def assign_sizes(
    how: Literal["own", "voted", "split", "rule"], sizes: Sequence[Size], confidence: NDArray[np.float64]
) -> list[Size]:
    """The size at which each view answers, see `Evaluation.sizes`; arguments as in `split_sizes`.

    Under 'rule' the one where the demonstrations agree on none.
    """
    if how == "own":
        return list(sizes)
    if how == "voted":
        return [Counter(sizes).most_common(1)[0][0]] * len(sizes)
    return split_sizes(sizes, confidence)


def split_sizes(sizes: Sequence[Size], confidence: NDArray[np.float64]) -> list[Size]:
    """The size at which each view answers: its own if it is one of the two most frequent, else the likelier of them.

    The lab's confidence split (version ledger 4), mended: the lab handed the others out by their order.
    `sizes` are (height, width) per view in the task's own frame, `confidence` (views, 2, 30) the log-probabilities of
    its height and width classes in that frame. Ties go to the size that came first.
    """
    best = [size for size, _ in Counter(sizes).most_common(2)]

    def likelier(view: int) -> Size:
        return max(best, key=lambda s: confidence[view, 0, s[0] - 1] + confidence[view, 1, s[1] - 1])

    return [size if size in best else likelier(view) for view, size in enumerate(sizes)]


def agreed_size(demonstrations: Sequence[tuple[Size, Size]], given: Size) -> Size | None:
    """(height, width) of the output for an input of size `given`, by what all demonstrations agree on.

    `demonstrations` are sizes (input, output). Each side follows a rule of its own, the first of these that holds in
    all of them: it is the input's, it is constant, or it is the input's times one ratio. A single demonstration shows
    the first alone. None where a side follows no rule, or where the rules lead to no whole size of 1 to 30 cells.
    """
    height, width = (
        _agreed_side([(before[axis], after[axis]) for before, after in demonstrations], given[axis]) for axis in (0, 1)
    )
    return None if height is None or width is None else (height, width)


def _agreed_side(demonstrations: Sequence[tuple[int, int]], given: int) -> int | None:
    if all(before == after for before, after in demonstrations):
        return given if demonstrations else None
    if len(demonstrations) == 1:
        return None
    constant = {after for _, after in demonstrations}
    ratios = {Fraction(after, before) for before, after in demonstrations}
    if len(constant) == 1:
        return constant.pop()
    if len(ratios) > 1:
        return None
    side = given * ratios.pop()
    return int(side) if side.denominator == 1 and 1 <= side <= LARGEST_SIDE else None
