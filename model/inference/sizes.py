"""The size at which each view answers, from the sizes and confidences of all views."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from model.config.evaluation import SizeRule
from model.puzzles.grids import LARGEST_SIDE, Size


def assign_sizes(config: SizeRule, sizes: Sequence[Size], confidence: NDArray[np.float64]) -> list[Size]:
    """The size at which each view answers, see `Evaluation.sizes`; arguments as in `split_sizes`.

    'rule' and 'measured' are as 'split' here, for grids whose demonstrations explain no size.
    """
    if config == "own":
        return list(sizes)
    if config == "voted":
        return [Counter(sizes).most_common(1)[0][0]] * len(sizes)
    if config == "split-in-order":
        return split_sizes_in_order(sizes)
    return split_sizes(sizes, confidence)


def split_sizes_in_order(sizes: Sequence[Size]) -> list[Size]:
    """The lab's confidence split as it was (version ledger 4): which view gets which size depends on their order.

    Views with one of the two most frequent sizes keep it. Any other gets the most frequent one while fewer views have
    it than own it, else the second.
    """
    (first, owners), *others = Counter(sizes).most_common(2)
    second = others[0][0] if others else first
    result: list[Size] = []
    for size in sizes:
        result.append(size if size in (first, second) else first if result.count(first) < owners else second)
    return result


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

    `demonstrations` are sizes (input, output). Each side follows a rule of its own, the first of these that is true in
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
