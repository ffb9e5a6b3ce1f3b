import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.puzzles.leaks import canonical
from model.puzzles.symmetry import (
    COMPOSE,
    INVERSE,
    colour_cycle,
    inverse_colours,
    transform,
    transformed_shape,
    undo_view,
    view_of,
)

GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda s: arrays(np.uint8, s, elements=st.integers(0, 9))
)
ELEMENTS = st.integers(0, 7)
# The ledger's words (2.5), said in numpy's: what each element does.
NUMPY = [
    lambda g: g,
    lambda g: np.rot90(g, -1),
    lambda g: np.rot90(g, 2),
    lambda g: np.rot90(g, 1),
    np.fliplr,
    np.flipud,
    lambda g: g.T,
    lambda g: np.rot90(g.T, 2),
]


@given(GRIDS, ELEMENTS)
def test_elements_are_the_ledgers(grid, element):
    assert np.array_equal(transform(element, grid), NUMPY[element](grid))
    assert transform(element, grid).shape == transformed_shape(element, grid.shape)


@given(GRIDS, ELEMENTS, ELEMENTS)
def test_composition_and_inverse(grid, first, then):
    assert np.array_equal(transform(then, transform(first, grid)), transform(COMPOSE[first, then], grid))
    assert np.array_equal(transform(INVERSE[first], transform(first, grid)), grid)


@given(GRIDS, ELEMENTS, st.permutations(range(1, 10)))
def test_a_view_is_undone(grid, element, order):
    colours = np.array([0, *order], dtype=np.uint8)
    assert np.array_equal(undo_view(element, colours, view_of(element, colours, grid)), grid)


@pytest.mark.parametrize("shift", range(9))
def test_colour_cycles_are_the_ledgers(shift):
    cycle = colour_cycle(shift)
    assert cycle.tolist() == [0] + [(i - 1 + shift) % 9 + 1 for i in range(1, 10)]
    assert np.array_equal(inverse_colours(cycle), colour_cycle((9 - shift) % 9))


@pytest.mark.parametrize("shift", [-1, 9])
def test_any_other_colour_cycle_is_refused(shift):
    with pytest.raises(ValueError, match=f"colour cycle {shift}; allowed are 0 to 8"):
        colour_cycle(shift)


def test_a_colour_cycle_beyond_eight_is_refused():
    with pytest.raises(ValueError, match="colour cycle 9"):
        colour_cycle(9)


def test_the_labs_unswapped_size_crops_a_transposed_view_wrongly():
    """Ledger B5: with the size not swapped, a non-square answer never comes back; swapped, it does."""
    answer = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for element in range(8):
        shown = transform(element, answer)
        canvas = np.zeros((30, 30), dtype=np.uint8)
        canvas[: shown.shape[0], : shown.shape[1]] = shown
        height, width = transformed_shape(element, answer.shape)
        assert np.array_equal(transform(INVERSE[element], canvas[:height, :width]), answer)
        labs = transform(INVERSE[element], canvas[: answer.shape[0], : answer.shape[1]])
        assert np.array_equal(labs, answer) == (element not in (1, 3, 6, 7))


@given(GRIDS, GRIDS, ELEMENTS, st.permutations(range(1, 10)))
def test_the_canonical_digest_is_the_same_for_every_view(a, b, element, order):
    colours = np.array([0, *order], dtype=np.uint8)
    assert canonical(a, b) == canonical(view_of(element, colours, a), view_of(element, colours, b))


def test_the_canonical_digest_tells_different_pairs_apart():
    a, b = np.array([[1, 0]], dtype=np.uint8), np.array([[0, 1]], dtype=np.uint8)
    # The same two grids, but the output is turned against the input: no view of the pair.
    assert canonical(a, a) != canonical(a, b)
    assert canonical(np.array([[1, 2]], dtype=np.uint8)) != canonical(np.array([[1, 1]], dtype=np.uint8))
