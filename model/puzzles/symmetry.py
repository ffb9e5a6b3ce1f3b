"""The eight symmetries of the square (D4) and colour maps, with composition and inverse.

D4 acts on the *coordinates* of cells, so a grid is never copied: element `g` sends cell (r, c) of an h x w grid to
a cell of the transformed grid, whose sides are swapped for the transposing elements. Numbering of the ledger (2.5):
0 identity; 1, 2, 3 rotate 90, 180, 270 degrees clockwise; 4 mirror left-right; 5 mirror top-bottom; 6 transpose;
7 anti-transpose.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import COLOURS, Grid

D4 = 8
# Element g = first swap the axes (if SWAP), then flip rows and columns of the result.
SWAP = np.array([0, 1, 0, 1, 0, 0, 1, 1], dtype=bool)
FLIP_ROWS = np.array([0, 0, 1, 1, 0, 1, 0, 1], dtype=bool)
FLIP_COLUMNS = np.array([0, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
INVERSE = np.array([0, 3, 2, 1, 4, 5, 6, 7])


def _compose(first: int, then: int) -> int:
    def key(swap: Any, rows: Any, columns: Any) -> tuple[bool, bool, bool]:
        return bool(swap), bool(rows), bool(columns)

    rows, columns = FLIP_ROWS[first], FLIP_COLUMNS[first]
    if SWAP[then]:
        rows, columns = columns, rows
    composed = key(SWAP[first] ^ SWAP[then], rows ^ FLIP_ROWS[then], columns ^ FLIP_COLUMNS[then])
    return next(g for g in range(D4) if key(SWAP[g], FLIP_ROWS[g], FLIP_COLUMNS[g]) == composed)


COMPOSE = np.array([[_compose(first, then) for then in range(D4)] for first in range(D4)])
"""COMPOSE[first, then]: the element that does `first` and then `then`."""


def transformed_shape(element: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Sides of a grid of `shape` after `element`."""
    return (shape[1], shape[0]) if SWAP[element] else shape


def transform(element: int, cells: Grid) -> Grid:
    """The grid after `element`: (height, width) -> transformed_shape."""
    result = cells.T if SWAP[element] else cells
    if FLIP_ROWS[element]:
        result = result[::-1]
    if FLIP_COLUMNS[element]:
        result = result[:, ::-1]
    return np.ascontiguousarray(result)


def colour_cycle(shift: int) -> NDArray[np.uint8]:
    """The lab's colour map c in 0..8: black stays, i in 1..9 becomes ((i - 1 + c) mod 9) + 1. The inverse is 9 - c."""
    if not 0 <= shift <= 8:
        raise ValueError(f"colour cycle {shift}; allowed are 0 to 8")
    return np.concatenate([[0], (np.arange(9) + shift) % 9 + 1]).astype(np.uint8)


def inverse_colours(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colour map (10,) that undoes `colours`."""
    result = np.empty(COLOURS, dtype=np.uint8)
    result[colours] = np.arange(COLOURS)
    return result


def view_of(element: int, colours: NDArray[np.uint8], cells: Grid) -> Grid:
    """A grid as a view shows it: D4 element, then colour map."""
    return colours[transform(element, cells)]


def undo_view(element: int, colours: NDArray[np.uint8], cells: Grid) -> Grid:
    """The grid behind a view of it."""
    return transform(int(INVERSE[element]), inverse_colours(colours)[cells])
