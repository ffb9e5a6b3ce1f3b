"""Batches under a budget of rows, and what fails in them.

A batch that raises is bisected down to the items that fail: failures are reported, the rest are kept.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from model.puzzles.arrays import Ints

ROWS = {"cpu": 8192, "cuda": 262144}
"""Context and target rows of a batch, which bound its memory."""
MOST_FAILURES = 64
"""Answers that may fail; with more the fault is not theirs, and the last error is raised."""

Result = TypeVar("Result")


def bisect_failures(
    work: Callable[[list[int]], Result], batch: list[int], failed: dict[int, str] | None
) -> Iterator[Result]:
    """`work` of the batch, or of its halves where it raises; what raises alone is put into `failed` with its message.

    With None for `failed`, or once MOST_FAILURES are in it, the error is raised.
    """
    try:
        result = work(batch)
    except Exception as error:
        if failed is None or len(failed) >= MOST_FAILURES:
            raise
        message = f"{type(error).__name__}: {error}"
    else:
        yield result
        return
    if len(batch) == 1:
        failed[batch[0]] = message
        return
    middle = len(batch) // 2
    for half in (batch[:middle], batch[middle:]):
        yield from bisect_failures(work, half, failed)


def one_ahead(begun: Iterator[Callable[[], Result]]) -> Iterator[Result]:
    """Results of work that was begun, each waited for once the next one is begun, so that a GPU has something to do."""
    last: Callable[[], Result] | None = None
    for wait in begun:
        if last is not None:
            yield last()
        last = wait
    if last is not None:
        yield last()


def batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices in the order of their lengths, cut so that the sum of lengths stays within `budget` where it can."""
    order: Ints = np.argsort(lengths, kind="stable")
    batch: list[int] = []
    used = 0
    for i in order.tolist():
        if batch and used + lengths[i] > budget:
            yield batch
            batch, used = [], 0
        batch.append(i)
        used += lengths[i]
    if batch:
        yield batch
