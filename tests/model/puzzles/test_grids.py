"""Files of tasks: each thing that can be wrong is named with its place, and what is allowed to its limits."""

from typing import Any

import numpy as np
import pytest

from model.puzzles import grids
from model.puzzles.grids import GridError

ONE: dict[str, Any] = {"input": [[1]], "output": [[2, 3]]}
LONG = "x" * 38


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("text", "here: expected a list of 1 to 30 rows, found 'text'"),
        ([], "here: expected a list of 1 to 30 rows, found []"),
        (LONG, f"here: expected a list of 1 to 30 rows, found '{LONG}'"),
        (LONG + "x", f"here: expected a list of 1 to 30 rows, found '{'x' * 36}..."),
        ([[1]] * 31, "here: 31 rows; at most 30 are allowed"),
        ([[1], 5], "here: row 1 is 5; expected a list of 1 to 30 colours"),
        ([[], [1]], "here: row 0 is []; expected a list of 1 to 30 colours"),
        ([[1] * 31], "here: row 0 has 31 cells; at most 30 are allowed"),
        ([[1, 2], [3, 4], [5]], "here: row 2 has 1 cells but row 0 has 2; rows must agree"),
        ([[0, 10]], "here: row 0, column 1 is 10; a colour is an integer from 0 to 9"),
        ([[0], [-1]], "here: row 1, column 0 is -1; a colour is an integer from 0 to 9"),
        ([[True]], "here: row 0, column 0 is True; a colour is an integer from 0 to 9"),
        ([[1.0]], "here: row 0, column 0 is 1.0; a colour is an integer from 0 to 9"),
    ],
)
def test_what_is_no_grid(value: Any, says: str) -> None:
    with pytest.raises(GridError) as refused:
        grids.grid(value, "here")
    assert str(refused.value) == says


def test_the_smallest_and_the_largest_grid() -> None:
    for value in ([[0]], [[9] * 30] * 30, [[0, 9], [5, 1], [2, 3]]):
        made = grids.grid(value, "here")
        assert made.tolist() == value
        assert made.dtype == np.uint8


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "task t: expected an object with 'train' and 'test', found []"),
        ({"test": [{"input": [[1]]}]}, "task t: 'train' is None; expected a list of pairs"),
        ({"train": [ONE], "test": {}}, "task t: 'test' is {}; expected a list of pairs"),
        ({"train": [], "test": []}, "task t: no train pair; at least one is needed"),
        ({"train": [ONE], "test": []}, "task t: no test pair; at least one is needed"),
        ({"train": [ONE, 5], "test": [ONE]}, "task t, train pair 1: expected an object with 'input', found 5"),
        ({"train": [{"output": 1}], "test": [1]}, "task t, train pair 0: expected an object with 'input', found "),
        ({"train": [{"input": [[1]]}], "test": [1]}, "task t, train pair 0: has no 'output'"),
        ({"train": [{**ONE, "output": 1}], "test": [1]}, "task t, train pair 0, output: expected a list of 1 to 30 "),
        ({"train": [{**ONE, "input": 1}], "test": [1]}, "task t, train pair 0, input: expected a list of 1 to 30 rows"),
        (
            {"train": [ONE], "test": [{"input": [[1]]}, ONE]},
            "task t, test input 1: has an 'output'; test outputs belong in the solutions file, not in the challenges",
        ),
    ],
)
def test_what_is_no_task(value: Any, says: str) -> None:
    with pytest.raises(GridError) as refused:
        grids.task("t", value)
    assert str(refused.value).startswith(says)


def test_a_task_and_its_sides() -> None:
    made = grids.task("t", {"train": [ONE, {"input": [[4]] * 5, "output": [[6]]}], "test": [{"input": [[7] * 9]}]})
    assert (made.name, len(made.train), len(made.test)) == ("t", 2, 1)
    assert made.test[0].output is None
    assert made.sides() == [1, 1, 1, 2, 5, 1, 1, 1, 1, 9]


def test_solutions_are_one_for_each_test_input() -> None:
    found = grids.solutions("t", [[[1]], [[2, 3]]], 2)
    assert [grid.tolist() for grid in found] == [[[1]], [[2, 3]]]
    for value, says in (
        ([[[1]]], "task t: 1 grids for 2 test inputs; there must be one output each"),
        ({"a": 1}, "task t: {'a': 1} for 2 test inputs; there must be one output each"),
        ([[[1]], [[11]]], "task t, solution 1: row 0, column 0 is 11; a colour is an integer from 0 to 9"),
    ):
        with pytest.raises(GridError) as refused:
            grids.solutions("t", value, 2)
        assert str(refused.value) == says
