"""The endless stream of training batches: weighted draws with replacement, packed without bias.

Examples are drawn in chunks, each a function of (seed, chunk) alone, and every example of a chunk is packed into one
of its batches: what does not fit waits for the next one, and nothing is ever dropped, so that large grids are seen as
often as their weight says. Batch k is thereby a function of (seed, k). The last batches of a training may have weights
of their own: their chunks are numbered from LAST_CHUNK on, and the chunk before ends early.
"""

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.network.packing import Budget
from model.ops.random_purposes import LAST_CHUNK
from model.puzzles.arrays import Pairs, Views

_CHUNK = 512
"""Batches of a chunk, on average; its last one is not full."""
_STEP = 128
"""Rows by which budgets grow."""
_LOOK_AHEAD = 128
"""Examples that may be passed over before a batch is closed."""


class Place(NamedTuple):
    """A chunk, from which its own batches can be made without those before."""

    chunk: int = 0
    batch: int = 0
    """Number of its first batch."""


_BEGINNING = Place()


class Last(NamedTuple):
    """The last batches of a training."""

    first: int
    """Number of the first of them."""
    weight: NDArray[np.float64]
    """(pairs,): their relative sampling weights."""


Waiting = deque[tuple[int, int, tuple[int, ...]]]
"""Context cells, target cells and row of the examples of a chunk that are in no batch yet."""


class Stream:
    """Batches of rows for `packing.pad_to_budget`."""

    def __init__(
        self,
        pairs: Pairs,
        views: Views,
        weight: NDArray[np.float64],
        batch: int,
        prefix: int,
        seed: int,
        last: Last | None = None,
    ) -> None:
        """`weight` (pairs,) are relative sampling weights; `batch` is the mean number of examples of a batch.

        The `last` batches fill the same budget, with as many cells as all others.
        """
        if len(pairs) == 0 or (pairs.output_offset < 0).any():
            raise ValueError("training needs pairs, each with its output")
        self.pairs, self.views, self.batch, self.seed = pairs, views, batch, seed
        share = weight / weight.sum()
        self.cumulative = _cumulative(weight)
        self.last = last
        self.last_cumulative = self.cumulative if last is None else _cumulative(last.weight)
        self.cells = np.stack([pairs.input_height * pairs.input_width, pairs.output_height * pairs.output_width])
        mean, longest = self.cells @ share, self.cells.max(1)
        most = np.maximum(batch * mean, longest)
        variation = math.sqrt(max(0.0, float((self.cells**2 @ share / mean**2).max()) - 1))
        # Two standard deviations more than on average, and enough to hold all cells of a batch.
        sequences = 1 + max(
            batch + math.ceil(2 * math.sqrt(batch) * variation), math.ceil(float(((most + _STEP) / longest).max()))
        )
        # Every sequence that stays unused still takes its prefix rows.
        context, target = _round(most[0] + prefix * sequences), _round(most[1])
        self.budget = Budget(sequences, context, target, int(longest[0]) + prefix, int(longest[1]))
        self.place = _BEGINNING
        """Position of the batch drawn last."""
        self._longest = int(longest[0]), int(longest[1])
        self._most = context - prefix * sequences, target

    def batches(self, first: int = 0, place: Place = _BEGINNING) -> Iterator[list[tuple[int, ...]]]:
        """Rows of `packing.Examples` without `real`, batch after batch from number `first`.

        A `place` at or before it, such as `self.place` of when it was drawn, spares making all batches before.
        """
        if place.batch > first:
            raise ValueError(f"batch {first} is before chunk {place.chunk}, which begins with batch {place.batch}")
        chunk, number = place
        while True:
            start = Place(chunk, number)
            for rows in self._chunk(chunk):
                if self._is_last(number) and chunk < LAST_CHUNK:
                    break
                if number >= first:
                    self.place = start
                    yield rows
                number += 1
            chunk = LAST_CHUNK if self._is_last(number) and chunk < LAST_CHUNK else chunk + 1

    def _is_last(self, batch: int) -> bool:
        return self.last is not None and batch >= self.last.first

    def _chunk(self, chunk: int) -> Iterator[list[tuple[int, ...]]]:
        draws = np.random.Generator(np.random.Philox(key=np.array([self.seed, chunk], dtype=np.uint64)))
        count = _CHUNK * self.batch
        cumulative = self.last_cumulative if chunk >= LAST_CHUNK else self.cumulative
        pair = np.searchsorted(cumulative, draws.random(count), side="right")
        task = self.pairs.task[pair]
        view = self.views.start[task] + (draws.random(count) * self.views.count[task]).astype(np.int64)
        p = self.pairs
        shapes = (
            p.input_offset,
            p.input_height,
            p.input_width,
            p.output_offset,
            p.output_height,
            p.output_width,
        )
        rows = list(zip(task.tolist(), view.tolist(), *(a[pair].tolist() for a in shapes), strict=True))
        queues: tuple[Waiting, Waiting] = deque(), deque()
        for row, inner, outer in zip(rows, *self.cells[:, pair].tolist(), strict=True):
            queues[inner * self._most[1] > outer * self._most[0]].append((inner, outer, row))
        while any(queues):
            # Longest first: attention starts its blocks in this order, and none of the long ones is left for the end.
            batch = sorted(self._take(queues), key=lambda waiting: waiting[0] + waiting[1], reverse=True)
            yield [row for _, _, row in batch]

    def _take(self, queues: tuple[Waiting, Waiting]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """The examples of a batch, out of those that fill the targets' budget more than the contexts', and the others.

        Always of the kind that leaves both budgets evenly free, so that neither ends a batch alone, and never so small
        that the sequences left could not hold the rows left: padding is no longer than the longest example either.
        """
        free = list(self._most)
        for left in reversed(range(self.budget.sequences)):
            least = [rows - left * most for rows, most in zip(free, self._longest, strict=True)]
            context_heavy = free[0] * self._most[1] > free[1] * self._most[0]
            for queue in (queues[context_heavy], queues[not context_heavy]):
                fitting = (
                    i
                    for i, (c, t, _) in enumerate(islice(queue, _LOOK_AHEAD))
                    if least[0] <= c <= free[0] and least[1] <= t <= free[1]
                )
                place = next(fitting, None)
                if place is not None:
                    break
            else:
                return
            waiting = queue[place]
            del queue[place]
            free[0] -= waiting[0]
            free[1] -= waiting[1]
            yield waiting


def _cumulative(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares up to and with each pair; exactly 1 from the last that has any, so that no draw lies beyond it."""
    shares: NDArray[np.float64] = np.cumsum(weight) / weight.sum()
    shares[shares >= shares[-1]] = 1.0
    return shares


def _round(rows: float) -> int:
    return -(-int(rows) // _STEP) * _STEP
