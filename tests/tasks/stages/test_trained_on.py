"""Checkpoints that were trained on what they are asked, and which labels tell equal experiments apart."""

from pathlib import Path
from typing import Any

import pytest

from model.storage.checkpoints import CheckpointError
from tasks.common.stage import StageError
from tasks.comparison import comparison
from tasks.comparison.results import Result
from tasks.files import start_checkpoint
from tasks.machine.answers import refuse_trained_on
from tests.support.small_experiment import build, save_checkpoint

PAIR, OTHER = "a" * 16, "b" * 16
REPORT: dict[str, Any] = {
    "leaks": "keep",
    "own_demonstrations": [{"task": "t", "test": 1}],
    "evaluated_pairs": {"t": ["c" * 16, PAIR], "u": [PAIR, OTHER, "d" * 16], "v": [OTHER]},
}


@pytest.mark.parametrize(
    ("tasks", "pairs", "leaks"),
    [
        ([], "", set()),
        ([], PAIR, {("u", 0)}),
        ([], f"{PAIR} {OTHER}", {("u", 0), ("u", 1), ("v", 0)}),
        (["t"], "", {("t", 0), ("t", 1)}),
        (["t", "x"], PAIR, {("t", 0), ("t", 1), ("u", 0)}),
    ],
)
def test_a_start_leaks_by_its_tasks_and_by_its_pairs(workspace: Path, tasks: Any, pairs: str, leaks: Any) -> None:
    """The test 1 of t is a view of its own demonstration: it counts only with its task."""
    start = save_checkpoint(build(), tests_trained_on=tasks, pairs_trained_on=pairs)
    assert start_checkpoint.leaked(start, REPORT) == leaks
    dropped = REPORT | {"leaks": "drop"}
    if not leaks:
        assert start_checkpoint.leaked(start, dropped) == set()
        return
    with pytest.raises(StageError) as refused:
        start_checkpoint.leaked(start, dropped)
    task, test = min(leaks)
    why = "that pair itself" if task != "t" else "test pairs of that task"
    assert str(refused.value) == (
        f"the start data/start/checkpoint ({start.experiment}, seed 0, 1 updates) was trained on {len(leaks)} of the 6 "
        f"evaluated pairs, such as task {task}, test {test} ({why}); start from another checkpoint, or set "
        "prepare.leaks: keep to train anyway and score.allow_leaks: true to score it with a caveat"
    )


def test_a_checkpoint_that_was_trained_on_its_test_pairs_is_refused() -> None:
    refuse_trained_on(Path("best"), ["a", "b"], ["c"])
    with pytest.raises(CheckpointError) as refused:
        refuse_trained_on(Path("best"), "edcbx", "abcde")
    assert str(refused.value) == (
        "best was trained on the test pairs of 4 evaluated tasks (b, c, d); it cannot be scored on them: train again "
        "without them"
    )


def group(where: str, seed: int = 0, checkpoint: str = "best", **parameters: str) -> list[Result]:
    source = {"experiment": "v3/tiny/aa1", "seed": seed, "evaluation_name": "votes"}
    return [Result(where, {"source": source, "checkpoint": checkpoint}, parameters, None, None, None)]


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        ([group("p", x="1"), group("q", **{"train.x": "1"})], ["", " (x=-, x=1)"]),
        ([group("p", x="1"), group("p", 1, x="1")], [" (seed 0)", " (seed 1)"]),
        ([group("p", x="1"), group("q", 1, x="1")], [" (p)", " (q)"]),
        ([group("p", x="1"), group("p", x="1")], [" (seed 0) #1", " (seed 0) #2"]),
        ([group("p", x="1"), group("q", checkpoint="final", x="1")], [" best-votes", " final-votes"]),
        ([group("p", a="1", b="1", c="1"), group("q", a="2", b="2", c="2")], ["", " (a=2, b=2, c=2)"]),
        ([group("p", a="1", b="1", c="1", d="1"), group("q")], [" (p)", " (q)"]),
        (
            [group("p", a="1", b="1", c="1", d="1"), group("q", a="2", b="2", c="2", d="2")],
            ["", " (a=2, b=2, c=2, ...)"],
        ),
    ],
)
def test_equal_names_get_what_differs(groups: Any, labels: list[str]) -> None:
    assert comparison._labels(groups) == [f"v3/tiny/aa1{label}" for label in labels]
