"""The grids that the benchmark learns and answers."""

import pytest

from model.config.experiment import Experiment
from tasks.benchmark import grids
from tasks.common.stage import StageError


def test_the_pairs_are_those_of_the_tasks_or_random_ones_of_one_side(subject: Experiment) -> None:
    data = grids.dataset(subject, 0, 3)
    p = data.pairs
    assert list(zip(p.task, p.number, strict=True)) == [(0, 0), (0, 1), (1, 0), (2, 0)]
    shapes = [(p.input_height[i], p.input_width[i], p.output_height[i], p.output_width[i]) for i in range(4)]
    assert shapes == [(1, 3, 2, 1)] * 3 + [(1, 2, 1, 1)]
    assert data.cells.tolist() == [1, 2, 3, 4, 5] * 3 + [7, 8, 9]
    assert p.input_offset.tolist() == [0, 5, 10, 15]
    assert p.output_offset.tolist() == [3, 8, 13, 17]
    assert len(grids.dataset(subject, 0, 2).pairs) == 3
    square = grids.dataset(subject, 5, 3)
    assert len(square.cells) == 4 * 2 * 25
    assert set(square.cells.tolist()) == set(range(10))
    assert set(square.pairs.output_width) == {5}
    assert (grids.dataset(subject, 5, 3).cells == square.cells).all()


def test_test_inputs_are_those_asked_for(subject: Experiment) -> None:
    data, names = grids.test_inputs(subject, [("a", 1), ("b", 0)])
    p = data.pairs
    assert names == ["a", "b"]
    assert list(zip(p.task, p.number, p.input_height, p.input_width, strict=True)) == [(0, 1, 2, 1), (1, 0, 1, 1)]
    assert data.cells.tolist() == [3, 4, 5]
    assert p.input_offset.tolist() == [0, 2]
    with pytest.raises(StageError, match="no edition of ARC-AGI has all"):
        grids.test_inputs(subject, [("a", 0), ("nobody", 0)])
