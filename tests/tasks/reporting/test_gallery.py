"""Which grids and denoisings the report draws, and what it says of each attempt; the predictions are made up."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files import predictions
from tasks.reporting import gallery
from tasks.reporting.gallery import Puzzle
from tests.conftest import experiment


def grid(*rows: Any) -> Any:
    return np.array(rows, dtype=np.uint8)


RIGHT = grid([1, 2], [3, 4], [5, 6])
SOLUTIONS = {"a": [RIGHT, grid([7])], "b": [grid([8, 9])]}


def answer(task: str, test: int, cells: Any, change: float, frames: int = 2, **more: Any) -> dict[str, Any]:
    """A row of predictions whose last step ends at `cells`; the frames before it hold the number of their step."""
    steps = [change, change + 1.0, change + 2.0]
    kept = [np.full_like(cells, i).tobytes() for i in range(frames - 1)] + [cells.tobytes()] * (frames > 0)
    own = {"task": task, "test": test, "view": 0, "attempt": 0, "cells": cells.tobytes(), "frames": kept}
    curves = {"change": steps, "confidences": [s / 2 for s in steps], "entropy": [s * 2 for s in steps]}
    return own | curves | {"height": cells.shape[0], "width": cells.shape[1]} | more


def source(checkpoint: str, *rows: dict[str, Any], votes: int = 8) -> Any:
    values = {
        "checkpoint": "c" * 64,
        "step": 3,
        "weights": "ema",
        "experiment": experiment().name,
        "seed": 0,
        "evaluation_name": "votes",
        "evaluation": experiment().evaluations["votes"].model_dump(mode="json"),
        "data": "d" * 64,
        "leaks": 0,
        "failures": [],
    }
    described = predictions.Source.model_validate_json(json.dumps(values))
    predictions.write(paths.predictions(checkpoint, "votes"), list(rows), described)
    return SimpleNamespace(checkpoint=checkpoint, evaluation="votes", votes=votes)


@pytest.fixture(autouse=True)
def _workspace(workspace: Path) -> None:
    paths.PREDICTIONS.mkdir()


WRONG = [
    answer("a", 1, grid([1, 1, 1, 1, 1, 1, 1, 1]), 1.0),  # The largest, of the wrong size.
    answer("b", 0, grid([8, 8]), 3.0, view=5, attempt=1),
    answer("a", 0, RIGHT[::-1].copy(), 5.0, frames=4, view=4, attempt=1),
]


def test_the_largest_of_the_right_size_is_drawn_of_the_right_and_of_the_wrong() -> None:
    small, large = answer("a", 1, grid([7]), 0.0), answer("a", 0, RIGHT, 2.0)
    one = source("best", *WRONG, small, large, answer("b", 0, grid([8, 9]), 9.0, frames=0))
    found = gallery.denoising_examples([one], SOLUTIONS)
    right, wrong = found.examples
    assert (right.task, right.test, right.right, right.number) == ("a", 0, True, 0)
    assert (wrong.task, wrong.test, wrong.right, wrong.number) == ("a", 0, False, 4)
    assert [step for step, _ in right.frames] == [0, 3]
    assert [step for step, _ in wrong.frames] == [0, 1, 2, 3]
    assert [frame.tolist() for _, frame in wrong.frames[1:]] == [
        np.full((3, 2), 1).tolist(),
        np.full((3, 2), 2).tolist(),
        RIGHT[::-1].tolist(),
    ]
    assert wrong.answer is RIGHT
    assert found.source is one
    assert found.counts == {"right": 2, "wrong": 3}
    assert set(found.means) == {"change", "confidences", "entropy"}
    assert found.means["change"]["right"].tolist() == [1.0, 2.0, 3.0]
    assert found.means["confidences"]["wrong"].tolist() == [1.5, 2.0, 2.5]
    assert found.means["entropy"]["wrong"].tolist() == [6.0, 8.0, 10.0]


def test_of_equals_the_first_is_drawn() -> None:
    rows = [answer("a", 0, RIGHT, float(i), view=i) for i in range(3)]
    [only] = gallery.denoising_examples([source("best", *rows)], SOLUTIONS).examples
    assert (only.number, only.right) == (0, True)


def test_the_next_evaluation_gives_what_the_first_lacks_and_no_more_are_read() -> None:
    first = source("best", *WRONG)
    second = source("final", answer("b", 0, grid([9, 8]), 1.0), answer("a", 1, grid([7]), 2.0, attempt=1), votes=0)
    unread: Any = SimpleNamespace(checkpoint="none", evaluation="votes", votes=0)
    found = gallery.denoising_examples([first, second, unread], SOLUTIONS)
    right, wrong = found.examples
    assert (right.source, right.task, right.number) == (second, "a", 1)
    assert (wrong.source, wrong.task) == (first, "a")
    assert found.source is first
    assert found.counts == {"wrong": 3}
    assert set(found.means["change"]) == {"wrong"}


def test_without_frames_nothing_is_drawn() -> None:
    none = source("best", answer("a", 0, RIGHT, 1.0, frames=0))
    assert gallery.denoising_examples([none], SOLUTIONS) == ([], None, {}, {})
    some = source("final", answer("a", 0, RIGHT, 1.0))
    found = gallery.denoising_examples([none, some], SOLUTIONS)
    assert found.source is some
    assert len(found.examples) == 1
    assert gallery.denoising_examples([], SOLUTIONS).source is None


def test_attempts_are_named_and_their_verdicts_told() -> None:
    other = grid([1, 2], [0, 0], [5, 6])

    def told(*grids: Any) -> list[tuple[str, str, bool, str]]:
        entry = {f"attempt_{i + 1}": g.tolist() for i, g in enumerate(grids)}
        return [(a.name, a.verdict, a.right, a.description) for a in gallery._attempts(entry, RIGHT)]

    assert told(RIGHT, RIGHT) == [("both attempts", "right", True, "both attempts, right")]
    assert told(other, grid([1, 2, 3])) == [
        ("attempt 1", "2 of 6 wrong", False, "attempt 1, wrong in 2 of 6 cells"),
        (
            "attempt 2",
            "1 × 3 for 3 × 2",
            False,
            "attempt 2, of the wrong size (1 × 3 instead of 3 × 2)",
        ),
    ]


PUZZLES = {
    "a": Puzzle([(grid([1]), grid([2]))], [grid([3]), grid([4])]),
    "b": Puzzle([], [grid([5])]),
}
SUBMITTED = {
    "a": [{"attempt_1": [[7]], "attempt_2": RIGHT.tolist()}, {"attempt_1": [[0]], "attempt_2": [[0]]}],
    "b": [{"attempt_1": [[8, 9]], "attempt_2": [[8, 9]]}],
}


def score(by: str = "votes", **solved: Any) -> dict[str, Any]:
    def one(right: bool, missing: bool = False) -> dict[str, Any]:
        return {"solved": right, "missing": missing, "votes_for_the_answer": 3, "views": 8}

    tasks = {"b": [one(True)], "a": [one(True), one(False, True)]} | solved
    return {
        "checkpoint": "best",
        "tasks": tasks,
        "source": {"evaluation_name": "votes", "evaluation": {"answers": {"by": by}, "subset": "training"}},
    }


@pytest.fixture
def submitted() -> Path:
    path = paths.submission("best", "votes")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(SUBMITTED))
    return path


@pytest.mark.parametrize(("by", "unit"), [("votes", "views"), ("repeated-votes", "views"), ("attempts", "attempts")])
def test_every_test_grid_has_a_card(submitted: Path, by: str, unit: str) -> None:
    one, two, three = gallery.cards(score(by), PUZZLES, SOLUTIONS)
    assert [(card.task, card.test, len(card.attempts)) for card in (one, two, three)] == [
        ("a", 0, 2),
        ("a", 1, 0),
        ("b", 0, 1),
    ]
    assert {card.note for card in (one, two, three)} == {f"3 of 8 {unit} right"}
    assert [card.input.tolist() for card in (one, two, three)] == [[[3]], [[4]], [[5]]]
    assert two.answer.tolist() == [[7]]
    assert one.demonstrations == PUZZLES["a"].demonstrations
    assert [gallery.is_solved(card) for card in (one, two, three)] == [True, False, True]


def test_cards_are_refused_where_files_disagree(submitted: Path) -> None:
    wrong = score(b=[{"solved": False, "missing": False, "votes_for_the_answer": 0, "views": 8}])
    with pytest.raises(StageError) as refused:
        gallery.cards(wrong, PUZZLES, SOLUTIONS)
    assert str(refused.value) == (
        f"task b, test 0: {submitted} and data/scores/best-votes.json disagree about whether it is solved; run the "
        "stage score again"
    )
    says = (
        f"data/scores/best-votes.json scores task a, which data/prepared/pairs.parquet, "
        f"data/prepared/training_solutions.json or {submitted} lacks; run `dvc repro`"
    )
    without = {"b": SUBMITTED["b"]}
    for puzzles, solutions in (({"b": PUZZLES["b"]}, SOLUTIONS), (PUZZLES, {"b": SOLUTIONS["b"]})):
        with pytest.raises(StageError) as refused:
            gallery.cards(score(), puzzles, solutions)
        assert str(refused.value) == says
    submitted.write_text(json.dumps(without))
    with pytest.raises(StageError) as refused:
        gallery.cards(score(), PUZZLES, SOLUTIONS)
    assert str(refused.value) == says
    submitted.unlink()
    with pytest.raises(StageError, match=r"submission\.json cannot be read: .*; run the stage score again$"):
        gallery.cards(score(), PUZZLES, SOLUTIONS)
