"""Packed rows against plain grids transformed by numpy."""

import numpy as np
import pytest
import torch

from model.network.device_data import DeviceData, geometry
from model.network.packing import Budget, pack, pad_to_budget
from model.puzzles.grids import HIDDEN
from model.puzzles.symmetry import COMPOSE, view_of

PREFIX = 4
INPUT = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
OUTPUT = np.array([[7, 8], [9, 1], [0, 2]], dtype=np.uint8)


def _data():
    colours = np.stack([np.roll(np.arange(1, 10), 2 * i) for i in range(8)])
    colours = np.concatenate([np.zeros((8, 1), int), colours], 1)
    cells = torch.from_numpy(np.concatenate([INPUT.ravel(), OUTPUT.ravel()]))
    return DeviceData(
        cells, torch.from_numpy(geometry(np.arange(8))), torch.from_numpy(colours), torch.zeros(8, 2, dtype=torch.int64)
    ), colours


def _pack(rows, budget=None):
    data, _ = _data()
    table, budget = pad_to_budget(rows, PREFIX, budget)
    return pack(torch.from_numpy(table), data, PREFIX, budget)


@pytest.mark.parametrize("element", range(8))
def test_coordinates_and_colours_are_those_of_the_transformed_grid(element):
    _, colours = _data()
    packed = _pack([(0, element, 0, 2, 3, 6, 3, 2)])
    for grid, position, colour in (
        (INPUT, packed.context_position[PREFIX:], packed.context_colour[PREFIX:]),
        (OUTPUT, packed.target_position, packed.target_colour),
    ):
        shown = view_of(element, colours[element], grid)
        assert sorted(map(tuple, position[:, :2].int().tolist())) == sorted(np.ndindex(shown.shape))
        for (row, column, _), value in zip(position.int().tolist(), colour.tolist(), strict=True):
            assert shown[row, column] == value
    assert set(packed.context_position[PREFIX:, 2].tolist()) == {1.0}
    assert set(packed.target_position[:, 2].tolist()) == {2.0}
    assert (packed.context_position[:PREFIX] == 0).all()
    assert (packed.context_colour[:PREFIX] == HIDDEN).all()
    assert bool(packed.view_swaps[0]) == bool(view_of(element, np.arange(10), INPUT).shape == (3, 2))


def test_every_context_has_its_slots_before_its_target():
    packed = _pack([(0, 0, 0, 2, 3, 6, 3, 2), (1, 3, 0, 1, 2, 6, 1, 1), (0, 1, 0, 2, 2, 6, 2, 1)])
    slots = torch.cat([packed.context_slots, packed.target_slots])
    owner = torch.cat([packed.context_example, packed.target_example])
    kind = torch.cat([torch.zeros_like(packed.context_example), torch.ones_like(packed.target_example)])
    assert sorted(slots.tolist()) == list(range(len(owner)))
    order = slots.argsort()
    rows = list(zip(owner[order].tolist(), kind[order].tolist(), strict=True))
    assert rows == sorted(rows)


def test_padding_fills_the_budget_with_hidden_cells():
    rows = [(0, 0, 0, 2, 3, 6, 3, 2), (1, 3, 0, 1, 2, 6, 1, 1)]
    padded = _pack(rows, Budget(6, 128, 100, 40, 40))
    plain = _pack(rows)
    assert len(padded.context_colour) == 128
    assert len(padded.target_colour) == 100
    assert int(padded.target_real.sum()) == 7
    for name in ("context_colour", "context_position", "target_colour", "target_position", "target_cell"):
        a, b = getattr(plain, name), getattr(padded, name)
        assert torch.equal(a, b[: len(a)])
    assert (padded.context_colour[len(plain.context_colour) :] == HIDDEN).all()
    assert (padded.target_colour[7:] == HIDDEN).all()
    longest = padded.context_segments.query_starts.diff()
    assert int(longest.sum()) == 128
    assert int(longest.max()) <= 40


def test_unknown_outputs_are_hidden():
    packed = _pack([(0, 2, 0, 2, 3, -1, 4, 5)])
    assert len(packed.target_colour) == 20
    assert (packed.target_colour == HIDDEN).all()


def test_elements_compose_in_coordinates_as_in_grids():
    """Packing a grid rotated by numpy under one element equals packing the original under the composed element."""
    data, _ = _data()
    table, budget = pad_to_budget([(0, int(COMPOSE[1, 4]), 0, 2, 3, -1, 1, 1)], PREFIX, None)
    identity = data._replace(view_colours=torch.arange(10).expand(8, 10).clone())
    both = pack(torch.from_numpy(table), identity, PREFIX, budget)
    rotated = identity._replace(cells=torch.from_numpy(np.rot90(INPUT, -1).ravel().copy()))
    table, budget = pad_to_budget([(0, 4, 0, 3, 2, -1, 1, 1)], PREFIX, None)
    then = pack(torch.from_numpy(table), rotated, PREFIX, budget)

    def shown(packed):
        return sorted(
            zip(packed.context_position[PREFIX:].tolist(), packed.context_colour[PREFIX:].tolist(), strict=True)
        )

    assert shown(both) == shown(then)
