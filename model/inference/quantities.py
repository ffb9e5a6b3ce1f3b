"""Quantities of a grid that the size of an answer may follow: sides of boxes, and counts.

Each has a vertical and a horizontal value, for the height and the width of an answer; a count is the same for both. A
quantity that a grid does not have, such as the box of a colour that it lacks, is left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.puzzles.grids import COLOURS, Grid, Size, grid_key

Quantities = dict[str, Size]
Cells = NDArray[np.bool_]

_NEIGHBOURS = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}
"""Which cells around a cell are connected to it: those at its sides, or those at its corners too."""
_RANKS = 4
"""Colours ranked by how many cells have them: the most frequent four, and the rarest."""


def quantities(grid: Grid) -> Quantities:
    """All quantities of a grid (height, width) by name."""
    frequent = [colour for colour, _ in Counter(grid.ravel().tolist()).most_common()]
    measured: dict[str, Size | int] = {"input": _size(grid), "colours": len(frequent)}
    measured |= dict(_lines(grid))
    measured |= dict(_colours(grid, frequent))
    measured |= dict(_sections(grid, frequent))
    for name, background in (("black", 0), ("common", frequent[0])):
        content = grid != background
        if content.any():
            others = [colour for colour in frequent if colour != background]
            measured |= {f"{name}: {key}": value for key, value in _content(grid, content, others)}
    measured |= dict(_products(grid, measured))
    return {name: (value, value) if isinstance(value, int) else value for name, value in measured.items()}


def _lines(grid: Grid) -> Iterator[tuple[str, Size | int]]:
    sideways = np.ascontiguousarray(grid.T)
    yield "different lines", (len({row.tobytes() for row in grid}), len({column.tobytes() for column in sideways}))
    yield "runs of lines", (_runs(grid), _runs(sideways))


def _runs(grid: Grid) -> int:
    return 1 + int((grid[1:] != grid[:-1]).any(1).sum())


def _colours(grid: Grid, frequent: Sequence[int]) -> Iterator[tuple[str, Size | int]]:
    """Of each colour that occurs: its cells, its parts, its boxes, and its largest full rectangle."""
    largest = {colour: _rectangle(grid == colour) for colour in frequent}
    yield "rectangle", max(largest.values(), key=_area)
    if len(frequent) > 1:
        yield "rectangle, not the commonest", max((largest[colour] for colour in frequent[1:]), key=_area)
    for colour in frequent:
        cells = grid == colour
        yield f"rectangle of {colour}", largest[colour]
        if colour:
            parts = _parts(cells, 8)
            yield f"box of {colour}", _box(cells)
            yield f"cells of {colour}", int(cells.sum())
            yield f"parts of {colour}", len(parts)
            yield f"largest part of {colour}", _box(max(parts, key=np.sum))


def _sections(grid: Grid, frequent: Sequence[int]) -> Iterator[tuple[str, Size | int]]:
    """Of the sections between full lines of one colour: how many, and their sides."""
    for colour in frequent:
        lines = grid == colour
        down, across = _between(lines.all(1)), _between(lines.all(0))
        if len(down) * len(across) > 1:
            kind = "black lines" if colour == 0 else "lines"
            yield f"sections of {kind}", (len(down), len(across))
            yield f"all sections of {kind}", len(down) * len(across)
            yield f"first section of {kind}", (down[0], across[0])
            yield f"largest section of {kind}", (max(down), max(across))
            yield f"smallest section of {kind}", (min(down), min(across))
            yield f"without {kind}", (sum(down), sum(across))


def _between(lines: Cells) -> list[int]:
    labels, _ = ndimage.label(~lines)
    return [int(n) for n in np.bincount(labels)[1:]]


def _content(grid: Grid, content: Cells, others: Sequence[int]) -> Iterator[tuple[str, Size | int]]:
    """Of what is not the background, whose colours are `others`, the most frequent first."""
    yield "box", _box(content)
    yield "cells", int(content.sum())
    ranked = {**{str(rank): colour for rank, colour in enumerate(others[:_RANKS])}, "last": others[-1]}
    for rank, colour in ranked.items():
        yield f"box of rank {rank}", _box(grid == colour)
        yield f"cells of rank {rank}", int((grid == colour).sum())
    for neighbours in _NEIGHBOURS:
        parts = [part for colour in others for part in _parts(grid == colour, neighbours)]
        yield from _of_parts(f"parts of {neighbours} neighbours", grid, parts)


def _of_parts(name: str, grid: Grid, parts: Sequence[Cells]) -> Iterator[tuple[str, Size | int]]:
    """Of these one-coloured parts of the grid: counts, and the box of a part that stands out."""
    boxes, cells = [_box(part) for part in parts], [int(part.sum()) for part in parts]
    shown = [_shown(grid, part) for part in parts]
    shapes, sizes = Counter(grid_key(picture) for picture in shown), Counter(boxes)
    yield f"{name}", len(parts)
    yield f"shapes of {name}", len(shapes)
    yield f"{name} of the commonest shape", max(shapes.values())
    yield f"{name} of the most cells", cells.count(max(cells))
    yield f"rows and columns of {name}", _starts(parts)
    yield f"commonest size of {name}", sizes.most_common(1)[0][0]
    yield f"largest of {name}", boxes[int(np.argmax(cells))]
    yield f"widest of {name}", max(boxes, key=_area)
    full = [n / _area(box) for n, box in zip(cells, boxes, strict=True)]
    yield f"fullest of {name}", boxes[max(range(len(parts)), key=lambda i: (full[i], cells[i]))]
    colours = [int(grid[part][0]) for part in parts]
    alone = {
        "size": [box for box in boxes if sizes[box] == 1],
        "shape": [box for box, picture in zip(boxes, shown, strict=True) if shapes[grid_key(picture)] == 1],
        "colour": [box for box, colour in zip(boxes, colours, strict=True) if colours.count(colour) == 1],
    }
    for what, those in alone.items():
        if len(those) == 1:
            yield f"the one {what} of {name}", those[0]


def _products(grid: Grid, measured: Mapping[str, Size | int]) -> Iterator[tuple[str, Size]]:
    """The input's sides times a count, or one more or less, and times themselves."""
    height, width = _size(grid)
    yield "input squared", (height * height, width * width)
    for name, count in measured.items():
        if isinstance(count, int):
            for more in (-1, 0, 1):
                yield f"input x ({name} {more:+d})", (height * (count + more), width * (count + more))


def _parts(cells: Cells, neighbours: int) -> list[Cells]:
    """The connected parts of the cells, each as a mask (height, width)."""
    labels, count = ndimage.label(cells, _NEIGHBOURS[neighbours])
    return [labels == number for number in range(1, count + 1)]


def _rectangle(cells: Cells) -> Size:
    """The largest rectangle of these cells alone; (0, 0) for none."""
    best, height, width = (0, 0), *cells.shape
    above = np.zeros(width, dtype=np.int64)
    for y in range(height):
        above = np.where(cells[y], above + 1, 0)
        for x in np.flatnonzero(above):
            sides = np.minimum.accumulate(above[x:])
            areas = sides * np.arange(1, len(sides) + 1)
            widest = int(areas.argmax())
            if areas[widest] > _area(best):
                best = int(sides[widest]), widest + 1
    return best


def _box(cells: Cells) -> Size:
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def _starts(parts: Sequence[Cells]) -> Size:
    """In how many different rows and columns the parts begin."""
    rows, columns = ({int(part.any(axis).argmax()) for part in parts} for axis in (1, 0))
    return len(rows), len(columns)


def _shown(grid: Grid, part: Cells) -> Grid:
    """The part in its box, other cells as no colour."""
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(part[box], grid[box], COLOURS).astype(np.uint8)


def _size(grid: Grid) -> Size:
    height, width = grid.shape
    return height, width


def _area(size: Size) -> int:
    return size[0] * size[1]
