"""The prepared arrays a training or a prediction works on: pairs, views and the order of tasks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """One row a pair; all (pairs,). Offsets point into the cells; -1 where the output is not known."""

    task: Ints
    """Index into the task list."""
    number: Ints
    """Which pair or test input of its task."""
    input_offset: Ints
    input_height: Ints
    input_width: Ints
    output_offset: Ints
    output_height: Ints
    output_width: Ints

    def rows(self, which: Ints) -> "Pairs":
        """The pairs at these rows."""
        return Pairs(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.task)


@dataclass(frozen=True)
class Views:
    """The views of every task, in blocks: task i has rows start[i] ... start[i] + count[i] - 1, identity first."""

    start: Ints
    count: Ints
    """(tasks,) each."""
    element: Ints
    """(views,) D4."""
    colours: NDArray[np.uint8]
    """(views, 10) colour maps."""
    colour_cycle: Ints
    """(views,) 0..8, or -1 where the map is no cycle."""


@dataclass(frozen=True)
class Dataset:
    """Cells, pairs and views that belong together."""

    cells: NDArray[np.uint8]
    pairs: Pairs
    views: Views

    def input(self, row: int) -> Grid:
        """The input grid of a pair."""
        start, height, width = (
            int(column[row]) for column in (self.pairs.input_offset, self.pairs.input_height, self.pairs.input_width)
        )
        return self.cells[start : start + height * width].reshape(height, width)
