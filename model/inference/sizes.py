"""The size at which each view answers, from the sizes and confidences of all views."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Size


def assign_sizes(
    how: Literal["own", "voted", "split"], sizes: Sequence[Size], confidence: NDArray[np.float64]
) -> list[Size]:
    """The size at which each view answers, see `Evaluation.sizes`; arguments as in `split_sizes`."""
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
