"""ARC tasks: grids of colours 0-9, pairs of grids, and the checks that every later stage relies on.

The layout is the ARC Prize's: `{task_id: {"train": [{"input", "output"}], "test": [{"input"}]}}` beside
`{task_id: [output, ...]}` with the solutions of the test inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config.base import check_name

LARGEST_SIDE = 30
COLOURS = 10
HIDDEN = COLOURS
"""Stands for the colour of a cell of which nothing is shown."""

Grid = NDArray[np.uint8]


class GridError(ValueError):
    """A task that is not one. The message names the task, the pair and what is wrong."""


@dataclass(frozen=True)
class Pair:
    """An input grid with its output; `output` is None where it is not known."""

    input: Grid
    output: Grid | None


@dataclass(frozen=True)
class Task:
    """One puzzle: demonstrations and test inputs (their outputs are stored elsewhere)."""

    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def sides(self) -> list[int]:
        """Every side length of every known grid."""
        grids = [g for pair in (*self.train, *self.test) for g in (pair.input, pair.output) if g is not None]
        return [side for grid in grids for side in grid.shape]


def grid(value: Any, where: str) -> Grid:
    """Check a nested list and return it as uint8 (height, width), both 1..30, colours 0..9. Raises GridError."""
    if not isinstance(value, list) or not value:
        raise GridError(f"{where}: expected a list of 1 to 30 rows, found {_short(value)}")
    if len(value) > LARGEST_SIDE:
        raise GridError(f"{where}: {len(value)} rows; at most {LARGEST_SIDE} are allowed")
    for r, row in enumerate(value):
        if not isinstance(row, list) or not row:
            raise GridError(f"{where}: row {r} is {_short(row)}; expected a list of 1 to 30 colours")
        if len(row) > LARGEST_SIDE:
            raise GridError(f"{where}: row {r} has {len(row)} cells; at most {LARGEST_SIDE} are allowed")
        if len(row) != len(value[0]):
            raise GridError(f"{where}: row {r} has {len(row)} cells but row 0 has {len(value[0])}; rows must agree")
        for c, colour in enumerate(row):
            if type(colour) is not int or not 0 <= colour < COLOURS:
                raise GridError(f"{where}: row {r}, column {c} is {_short(colour)}; a colour is an integer from 0 to 9")
    return np.array(value, dtype=np.uint8)


def grid_key(cells: Grid) -> tuple[tuple[int, ...], bytes]:
    """Hashable, and equal for equal grids alone."""
    return cells.shape, cells.tobytes()


def task(name: str, value: Any) -> Task:
    """Check one entry of a challenges file. Raises GridError."""
    try:
        check_name(name)
    except ValueError as error:
        raise GridError(f"task id {error}") from None
    if not isinstance(value, Mapping):
        raise GridError(f"task {name}: expected an object with 'train' and 'test', found {_short(value)}")
    for key in ("train", "test"):
        if not isinstance(value.get(key), list):
            raise GridError(f"task {name}: '{key}' is {_short(value.get(key))}; expected a list of pairs")
        if not value[key]:
            raise GridError(f"task {name}: no {key} pair; at least one is needed")
    train = tuple(_pair(f"task {name}, train pair {i}", p, needs_output=True) for i, p in enumerate(value["train"]))
    test = tuple(_pair(f"task {name}, test input {i}", p, needs_output=False) for i, p in enumerate(value["test"]))
    return Task(name, train, test)


def solutions(name: str, value: Any, count: int) -> list[Grid]:
    """Check one entry of a solutions file against its task's number of test inputs. Raises GridError."""
    if not isinstance(value, list) or len(value) != count:
        count_given = f"{len(value)} grids" if isinstance(value, list) else _short(value)
        raise GridError(f"task {name}: {count_given} for {count} test inputs; there must be one output each")
    return [grid(g, f"task {name}, solution {i}") for i, g in enumerate(value)]


def _pair(where: str, value: Any, *, needs_output: bool) -> Pair:
    if not isinstance(value, Mapping) or "input" not in value:
        raise GridError(f"{where}: expected an object with 'input', found {_short(value)}")
    if needs_output and "output" not in value:
        raise GridError(f"{where}: has no 'output'")
    if not needs_output and "output" in value:
        raise GridError(f"{where}: has an 'output'; test outputs belong in the solutions file, not in the challenges")
    output = grid(value["output"], f"{where}, output") if needs_output else None
    return Pair(grid(value["input"], f"{where}, input"), output)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


Size = tuple[int, int]
