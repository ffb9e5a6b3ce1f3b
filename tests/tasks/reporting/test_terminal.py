"""Grids side by side in a terminal: how many a line holds, in how many columns a cell."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tasks.reporting import terminal
from tasks.reporting.drawing import Strip


def grid(height: int, width: int, colour: int = 1) -> Any:
    return np.full((height, width), colour, dtype=np.uint8)


def printed(strips: list[Strip], width: int) -> list[str]:
    file = io.StringIO()
    terminal.show(Console(file=file, width=width), strips)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_two_columns_a_cell_where_a_grid_fills_no_more_than_half() -> None:
    strips = [Strip("one", [("a", grid(2, 3)), ("b", grid(1, 2, 5))])]
    assert printed(strips, 40) == ["", "one", "a        b", "1 1 1    5 5", "1 1 1"]
    wide = [Strip("two", [("a", grid(1, 10))])]
    assert printed(wide, 40)[-1] == "1 1 1 1 1 1 1 1 1 1"
    assert printed(wide, 39)[-1] == "1111111111"


@pytest.mark.parametrize(("width", "lines"), [(18, [2]), (17, [1, 1])])
def test_a_line_holds_what_its_columns_hold(width: int, lines: list[int]) -> None:
    # Each takes 3 cells of 2 columns and a gap of 3.
    shown = printed([Strip("one", [("a", grid(1, 3)), ("b", grid(1, 3, 2))])], width)
    labels = [line.split() for line in shown if set(line.split()) & {"a", "b"}]
    assert [len(line) for line in labels] == lines


def test_a_long_label_takes_its_columns_and_no_grid_no_line() -> None:
    strips = [Strip("none", []), Strip("two", [("label of it\nx", grid(1, 1)), ("b", grid(1, 1, 2))])]
    assert printed(strips, 19) == ["", "none", "", "two", "label of it   b", "x", "1             2"]
    assert printed(strips, 18)[3:] == ["two", "label of it", "x", "1", "b", "2"]


def test_a_digit_has_the_colour_of_its_square() -> None:
    drawn = terminal.text(np.array([[3, 0], [9, 3]], dtype=np.uint8), 2)
    assert drawn.plain == "3 0 \n9 3 "
    styles = [str(span.style) for span in drawn.spans]
    assert len(styles) == 4
    assert styles[0] == styles[3] != styles[1]
    assert all(len(set(style.split(" on "))) == 1 for style in styles)
