"""Which predictions the stage score takes for those of its test inputs, and what it says of a score."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks import predict, score
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files import predictions
from tests.conftest import experiment
from tests.support.small_experiment import build, save_checkpoint

FILE = Path("best-votes.parquet")
ONE = np.array([[1]], dtype=np.uint8)
SOLUTIONS = {"b": [ONE, ONE], "a": [ONE], "c": [ONE]}


def source(name: str = "votes", **evaluation: Any) -> predictions.Source:
    values = {
        "checkpoint": "c",
        "step": 3,
        "weights": "ema",
        "experiment": "v3/tiny/aa1",
        "seed": 0,
        "evaluation_name": name,
        "evaluation": experiment().evaluations[name].model_dump(mode="json") | evaluation,
        "data": "d",
        "leaks": 0,
        "failures": [],
    }
    return predictions.Source.model_validate_json(json.dumps(values))


def rows(*keys: tuple[str, int, int, int]) -> pd.DataFrame:
    return pd.DataFrame(keys, columns=["task", "test", "view", "attempt"])


def refused(frame: pd.DataFrame, of: predictions.Source) -> str:
    with pytest.raises(StageError) as error:
        score.check(FILE, frame, of, SOLUTIONS)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("votes", [("a", 0, 0, 0), ("b", 1, 7, 0), ("b", 0, 7, 0), ("b", 1, 6, 0)]),
        ("attempts", [("a", 0, 0, 0), ("a", 0, 0, 1), ("b", 1, 0, 1)]),
        ("votes", []),
    ],
)
def test_answers_within_all_numbers_are_taken(name: str, keys: list[Any]) -> None:
    frame = rows(*keys) if keys else rows(("a", 0, 0, 0)).iloc[:0]
    score.check(FILE, frame, source(name), SOLUTIONS)


@pytest.mark.parametrize(
    ("name", "key", "says"),
    [
        ("votes", ("a", 1, 0, 0), "task a has an answer for test 1"),
        ("votes", ("b", 2, 0, 0), "task b has an answer for test 2"),
        ("votes", ("b", -1, 0, 0), "task b has an answer for test -1"),
        ("votes", ("a", 0, 8, 0), "task a has an answer for view 8"),
        ("votes", ("a", 0, -1, 0), "task a has an answer for view -1"),
        ("votes", ("a", 0, 0, 1), "task a has an answer for attempt 1"),
        ("attempts", ("a", 0, 1, 0), "task a has an answer for view 1"),
        ("attempts", ("a", 0, 0, 2), "task a has an answer for attempt 2"),
        ("attempts", ("a", 0, 0, -1), "task a has an answer for attempt -1"),
    ],
)
def test_an_answer_out_of_range_is_named(name: str, key: Any, says: str) -> None:
    told = refused(rows(("b", 0, 0, 0), key), source(name))
    assert told == f"{FILE}: {says}, which is out of range; run the stage predict again"


def test_an_answer_twice_is_named() -> None:
    told = refused(rows(("a", 0, 0, 0), ("b", 1, 3, 0), ("b", 1, 4, 0), ("b", 1, 3, 0)), source())
    assert told == f"{FILE}: task b, test 1, view 3 is answered twice"
    score.check(FILE, rows(("a", 0, 0, 0), ("a", 0, 0, 1)), source("attempts"), SOLUTIONS)


def test_tasks_of_other_data_are_counted_and_three_are_named() -> None:
    frame = rows(*((name, 0, 0, 0) for name in "zyxwaz"))
    assert refused(frame, source()) == (
        f"{FILE} answers 4 tasks that {paths.EVALUATION_SOLUTIONS} lacks: w, x, y; they were made from other data: run "
        "the stage predict again"
    )
    assert str(paths.TRAINING_SOLUTIONS) in refused(frame, source(subset="training"))
    assert str(paths.VALIDATION_SOLUTIONS) in refused(frame, source(subset="validation"))


@pytest.mark.parametrize(("limit", "names"), [(0, ["a", "b", "c"]), (1, ["a"]), (2, ["a", "b"]), (5, ["a", "b", "c"])])
def test_the_first_tasks_by_their_ids_are_scored(limit: int, names: list[str]) -> None:
    assert list(score.limited(SOLUTIONS, source(limit=limit))) == names


@pytest.fixture
def predicted(workspace: Path) -> None:
    """Predictions of three test inputs by eight views."""
    save_checkpoint(build())
    predict.main("best", "votes")


def test_the_denoising_is_that_of_view_0_and_none_without_its_steps(predicted: None, tmp_path: Path) -> None:
    path = paths.predictions("best", "votes")
    frame, _ = predictions.read(path)
    solutions = {task: [ONE] * int(tests.max() + 1) for task, tests in frame.groupby("task")["test"]}
    given = {(task, test): ONE for task, grids in solutions.items() for test in range(len(grids))}
    whole = score.diagnosis(frame, solutions, {}, given)
    first = frame[(frame["view"] == 0) & (frame["attempt"] == 0)]
    assert whole["trajectory"]["grids"] == len(first) == 3
    assert whole["trajectory"]["last_change"] == pytest.approx(first["last_changed_step"].mean())
    predictions.keep(path, tmp_path / "part.parquet", whole=False)
    part, _ = predictions.read(tmp_path / "part.parquet")
    assert score.diagnosis(part, solutions, {}, given)["trajectory"] is None
    part["change"] = [frame["change"][i] if i == first.index[0] else None for i in frame.index]
    assert score.diagnosis(part, solutions, {}, given)["trajectory"] is None, "of all, or of none"
    assert score.diagnosis(frame[frame["view"] > 0], solutions, {}, given)["trajectory"] is None
    assert score.diagnosis(frame.assign(attempt=1), solutions, {}, given)["trajectory"] is None


def test_the_score_is_said_with_what_must_be_known(predicted: None, capsys: Any) -> None:
    capsys.readouterr()
    score.main("best", "votes")
    result = json.loads(paths.score("best", "votes").read_text())
    [said] = capsys.readouterr().out.splitlines()
    low, high = (f"{100 * end:.1f}" for end in result["ci95"])
    start = f"best-votes: pass@2 {100 * result['pass_at_2']:.1f} % [{low}–{high}], {result['grids_solved']} of 3 grids"
    assert said == "; ".join([f"{start}, 2 tasks", *result["warnings"]])
    assert (result["checkpoint"], result["votes"]["views"], result["votes"]["rule"]) == ("best", 8, "most-frequent")
    build(score={"views": 2})
    score.main("best", "votes")
    assert json.loads(paths.score("best", "votes").read_text())["votes"]["views"] == 2
