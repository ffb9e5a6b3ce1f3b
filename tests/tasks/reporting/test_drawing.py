"""What is drawn, read back from the pixels."""

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tasks.reporting import drawing
from tasks.reporting.drawing import Panel, Strip
from tests.conftest import ROOT

OFFICIAL = ["000000", "0074D9", "FF4136", "2ECC40", "FFDC00", "AAAAAA", "F012BE", "FF851B", "7FDBFF", "870C25"]
LINE = "555555"

grids = st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 9))
)


def rgb(code):
    return [int(code[i : i + 2], 16) for i in (0, 2, 4)]


def pixels(png):
    with Image.open(io.BytesIO(png)) as opened:
        assert set(opened.info) <= {"dpi"}, "no text, no time"
        return np.asarray(opened.convert("RGB"))


def line_height(panel):
    """Height, 0 at the top and 1 at the bottom, at which a flat first line is: the rows with most of its colour."""
    drawn = pixels(drawing.figure_png(drawing.curves([panel], 1)))
    found = (drawn == rgb(drawing.SERIES[0][1:])).all(-1).sum(1)
    return np.flatnonzero(found > 0.9 * found.max()).mean() / len(drawn)


@settings(max_examples=20, deadline=None)
@given(grids, st.integers(3, 24))
def test_every_cell_has_its_official_colour_and_a_line_around_it(grid, cell):
    drawn = pixels(drawing.image_png(drawing.image(grid, cell)))
    height, width = grid.shape
    assert drawn.shape == (height * cell + 1, width * cell + 1, 3)
    for row in range(height):
        for column in range(width):
            top, left = row * cell, column * cell
            inside = drawn[top + 1 : top + cell, left + 1 : left + cell]
            assert (inside == rgb(OFFICIAL[grid[row, column]])).all()
            frame = [drawn[top, left : left + cell], drawn[top + cell, left : left + cell]]
            frame += [drawn[top : top + cell, left], drawn[top : top + cell, left + cell]]
            assert all((edge == rgb(LINE)).all() for edge in frame)


@given(st.lists(grids, max_size=4), st.integers(40, 300))
def test_cells_are_as_large_as_fits_within_limits(shown, side):
    cell = drawing.cell_size(shown, side)
    longest = max((max(grid.shape) for grid in shown), default=1)
    assert 5 <= cell <= 24
    assert cell in (5, 24) or cell * longest <= side < (cell + 1) * longest


@pytest.mark.parametrize("count", [3, 25])
def test_a_sheet_holds_every_grid_to_the_pixel(count):
    draws = np.random.default_rng(0)
    shapes = draws.integers(1, 7, (count, 2))
    shown = [draws.integers(0, 10, shape).astype(np.uint8) for shape in shapes]
    sheet = pixels(drawing.sheet("title", [Strip("one", [("label\nof two lines", grid) for grid in shown])]))
    cell = drawing.cell_size(shown, 132)
    line, white = (sheet == rgb(LINE)).all(-1), (sheet == 255).all(-1)
    corners = np.argwhere(line[1:, 1:] & white[:-1, 1:] & white[1:, :-1]) + 1
    assert len(corners) == count
    drawn = [drawing.image(grid, cell) for grid in shown]
    # In reading order, since the strips are filled so.
    for (y, x), expected in zip(corners.tolist(), drawn, strict=True):
        assert np.array_equal(sheet[y : y + expected.shape[0], x : x + expected.shape[1]], expected)


@pytest.mark.slow
def test_a_sheet_of_four_hundred_large_tasks_can_be_drawn():
    grid = np.full((30, 30), 3, dtype=np.uint8)
    sheet = pixels(drawing.sheet("title", [Strip("task", [("label", grid)] * 20)] * 400))
    assert sheet.shape[0] < 2**14
    assert sheet.shape[1] <= drawing.SHEET_WIDTH


def test_an_empty_sheet_and_no_panels_are_pictures():
    assert pixels(drawing.sheet("nothing", [])).min() < 100, "the title"
    assert (pixels(drawing.figure_png(drawing.curves([], 2))) == 255).all()


def test_shares_have_the_same_scale_in_every_panel():
    low, middle, high = (line_height(Panel("a", "x", {"a": ([1, 2, 3, 4], [y] * 4)}, share=True)) for y in (0, 0.5, 1))
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2, abs=0.005)


def test_other_curves_start_at_zero_and_are_proportional():
    """The axis is the same, since a second line sets it."""

    def height(y):
        return line_height(Panel("a", "x", {"a": ([1, 2, 3, 4], [y] * 4), "b": ([1, 2, 3, 4], [8.0] * 4)}))

    assert height(2) - height(4) == pytest.approx(height(4) - height(6), abs=0.005)
    assert height(2) > height(4)


def test_a_single_row_of_history_is_seen():
    assert 0 < line_height(Panel("a", "x", {"a": ([0], [1.0]), "b": ([4], [1.0])})) < 1


def test_svg_says_what_it_shows_in_the_colours_of_the_page():
    panel = Panel("cells right", "updates", {"first": ([0, 1000, 2000], [0, 0.5, 1]), "other": ([0, 2000], [1, 0])})
    svg = drawing.figure_svg(drawing.curves([panel], 1))
    assert "http" not in svg
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    texts = {element.text for element in root.iter("text")}
    assert {"cells right", "updates", "first", "other", "0", "1k", "2k"} <= texts
    assert "var(--ink)" in svg
    assert "var(--quiet)" in svg
    assert not re.search(f"{drawing.INK}|{drawing.QUIET}|{drawing.FAINT}", svg)


def test_the_last_value_stands_in_the_corner_of_a_panel_of_its_own():
    one = drawing.figure_svg(drawing.curves([Panel("loss", "updates", {"loss": ([1, 2], [2.0, 0.1234])})], 1))
    assert ">0.123<" in one


@pytest.mark.slow
def test_another_process_draws_the_same_bytes():
    script = """
import hashlib, numpy as np
from tasks.reporting import drawing
from tasks.reporting.drawing import Panel, Strip
figure = drawing.curves([Panel("a", "x", {"b": ([1, 2, 3], [1, 5, 2]), "c": ([1, 2], [3, 4])})], 1)
grid = np.arange(10, dtype=np.uint8).reshape(2, 5)
sheet = drawing.sheet("t", [Strip("s", [("l", grid)])])
parts = [drawing.figure_svg(figure).encode(), drawing.figure_png(figure), sheet]
print([hashlib.sha256(part).hexdigest() for part in parts])
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": seed, "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
