"""Tasks to solve: what is read of them, and the sheet of their answers."""

import numpy as np
import pytest

from model.puzzles.grids import GridError, Pair, Task
from model.scoring.proposals import collect_proposals
from tasks.commands.solve import strips
from tasks.serving import solving

TRAIN = [{"input": [[1]], "output": [[2]]}]


def test_the_output_of_a_test_pair_is_left_out():
    test = [{"input": [[1, 0]], "output": [[2, 0]]}, {"input": [[3]]}]
    [task] = solving.parse({"aaaaaaaa": {"train": TRAIN, "test": test}}).values()
    assert [(pair.input.tolist(), pair.output) for pair in task.test] == [([[1, 0]], None), ([[3]], None)]


@pytest.mark.parametrize("pair", [{}, {"output": [[1]]}, "input", ["input"], None, 3])
def test_a_test_pair_without_an_input_is_refused_by_its_task(pair):
    with pytest.raises(GridError, match="aaaaaaaa"):
        solving.parse({"aaaaaaaa": {"train": TRAIN, "test": [pair]}})


def test_a_sheet_numbers_the_attempts_and_counts_the_proposals_of_each():
    one, two, third = (np.full((1, 2), colour, dtype=np.uint8) for colour in (1, 2, 3))
    task = Task("aaaaaaaa", (), (Pair(np.zeros((1, 2), dtype=np.uint8), None), Pair(third, None)))
    given = collect_proposals([one, two, one, third], confidence=[0.5] * 4)
    answered, unanswered = strips(task, {("aaaaaaaa", 0): [one, two]}, {("aaaaaaaa", 0): given})
    assert answered.heading == "task aaaaaaaa, test 0"
    labels = ["test input", "attempt 1\n2 of 4 proposals", "attempt 2\n1 of 4 proposals"]
    assert [label for label, _ in answered.grids] == labels
    assert unanswered.heading == "task aaaaaaaa, test 1: no answer"
    assert [label for label, _ in unanswered.grids] == ["test input"]
