"""Quantities of a grid against a graph of its cells, brute force, and grids that can be read off."""

import itertools
from collections import Counter

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.inference.quantities import quantities

GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 7]))
)


def parts(grid, corners):
    """Connected cells of one colour, not black, by networkx."""
    height, width = grid.shape
    graph = nx.Graph()
    steps = [(0, 1), (1, 0), (1, 1), (1, -1)] if corners else [(0, 1), (1, 0)]
    for y, x in zip(*np.nonzero(grid), strict=True):
        graph.add_node((int(y), int(x)))
        for dy, dx in steps:
            if 0 <= y + dy < height and 0 <= x + dx < width and grid[y + dy, x + dx] == grid[y, x]:
                graph.add_edge((int(y), int(x)), (int(y + dy), int(x + dx)))
    return list(nx.connected_components(graph))


def box(cells):
    rows, columns = zip(*cells, strict=True)
    return max(rows) - min(rows) + 1, max(columns) - min(columns) + 1


@given(GRIDS)
def test_parts_are_the_connected_components(grid):
    found = quantities(grid)
    for neighbours in (4, 8):
        name, expected = f"black: parts of {neighbours} neighbours", parts(grid, neighbours == 8)
        if not expected:
            assert name not in found
            continue
        boxes = [box(part) for part in expected]
        assert found[name] == (len(expected), len(expected))
        starts = [{min(cell[axis] for cell in part) for part in expected} for axis in (0, 1)]
        assert found[f"black: rows and columns of {name[7:]}"] == (len(starts[0]), len(starts[1]))
        areas = [h * w for h, w in boxes]
        assert np.prod(found[f"black: widest of {name[7:]}"]) == max(areas)
        most = max(map(len, expected))
        assert found[f"black: {name[7:]} of the most cells"][0] == sum(len(part) == most for part in expected)
        assert found[f"black: largest of {name[7:]}"] in [box(part) for part in expected if len(part) == most]
        alone = [size for size, times in Counter(boxes).items() if times == 1]
        assert found.get(f"black: the one size of {name[7:]}") == (alone[0] if len(alone) == 1 else None)


@given(GRIDS)
def test_colours_and_boxes_are_counted(grid):
    found = quantities(grid)
    assert found["input"] == grid.shape
    assert found["colours"][0] == len(set(grid.ravel().tolist()))
    for colour in (1, 2, 7):
        cells = list(zip(*np.nonzero(grid == colour), strict=True))
        assert found.get(f"cells of {colour}") == ((len(cells), len(cells)) if cells else None)
        assert found.get(f"box of {colour}") == (box(cells) if cells else None)
    assert found.get("black: box") == (box(list(zip(*np.nonzero(grid), strict=True))) if grid.any() else None)


@given(GRIDS)
def test_the_largest_rectangle_is_that_of_brute_force(grid):
    best = {}
    height, width = grid.shape
    for top, left in itertools.product(range(height), range(width)):
        for h, w in itertools.product(range(1, height - top + 1), range(1, width - left + 1)):
            inside = grid[top : top + h, left : left + w]
            if (inside == inside[0, 0]).all():
                best[int(inside[0, 0])] = max(best.get(int(inside[0, 0]), 0), h * w)
    found = quantities(grid)
    assert {c: np.prod(found[f"rectangle of {c}"]) for c in best} == best
    assert np.prod(found["rectangle"]) == max(best.values())


@given(GRIDS)
def test_what_is_counted_turns_with_the_grid(grid):
    """No ties are broken in these, so that the transposed grid has the values exchanged."""
    turned, found = quantities(np.ascontiguousarray(grid.T)), quantities(grid)
    kinds = ("input", "cells", "box of", "black: box", "black: cells", "sections", "without", "different", "runs")
    names = [n for n in found if n.startswith(kinds) and "rank" not in n and "common:" not in n]
    assert {name: found[name] for name in names} == {name: turned[name][::-1] for name in names}
    assert len(names) > 3


def test_sections_lines_and_products_of_a_grid_that_can_be_read_off():
    grid = np.array(
        [
            [1, 0, 5, 0, 0, 5, 0],
            [0, 0, 5, 0, 0, 5, 0],
            [5, 5, 5, 5, 5, 5, 5],
            [0, 0, 5, 2, 2, 5, 0],
        ],
        dtype=np.uint8,
    )
    found = quantities(grid)
    assert found["sections of lines"] == (2, 3)
    assert found["all sections of lines"] == (6, 6)
    assert found["first section of lines"] == (2, 2)
    assert found["largest section of lines"] == (2, 2)
    assert found["smallest section of lines"] == (1, 1)
    assert found["without lines"] == (3, 5)
    assert found["different lines"] == (4, 4)
    assert found["runs of lines"] == (4, 6)
    assert found["input squared"] == (16, 49)
    assert found["input x (colours -1)"] == (4 * 3, 7 * 3)
    assert found["black: box of rank last"] == found["box of 1"] == (1, 1)


def test_the_part_that_stands_out():
    grid = np.array([[1, 0, 2, 2], [0, 0, 2, 0], [1, 0, 0, 0], [0, 0, 3, 3], [1, 0, 3, 3]], dtype=np.uint8)
    found = {name.removeprefix("black: "): value for name, value in quantities(grid).items() if "black: " in name}
    assert found["shapes of parts of 4 neighbours"] == (3, 3)
    assert found["parts of 4 neighbours of the commonest shape"] == (3, 3)
    assert found["commonest size of parts of 4 neighbours"] == (1, 1)
    assert found["largest of parts of 4 neighbours"] == (2, 2)
    assert found["fullest of parts of 4 neighbours"] == (2, 2)
    assert "the one size of parts of 4 neighbours" not in found, "there are two of 2 x 2"
    assert "the one colour of parts of 4 neighbours" not in found, "there are two"
    one = quantities(grid[:3])
    assert one["black: the one size of parts of 4 neighbours"] == (2, 2)
    assert one["black: the one shape of parts of 8 neighbours"] == (2, 2)
    assert one["black: the one colour of parts of 8 neighbours"] == (2, 2)
    assert one["black: box of rank 0"] == (2, 2)
    assert one["common: cells of rank 1"] == (2, 2)


@pytest.mark.parametrize("grid", [np.zeros((2, 3)), np.full((1, 1), 4), np.full((30, 30), 9)])
def test_a_grid_of_one_colour_has_quantities_too(grid):
    found = quantities(grid.astype(np.uint8))
    assert found["input"] == found["rectangle"] == grid.shape
    assert ("black: box" in found) == bool(grid.any())
    assert not any(name.startswith(("common:", "sections")) for name in found)
