"""What a model in MLflow takes as a request, refuses, and answers; the network is made up."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from model.storage import checkpoints
from tasks.serving import solving
from tests.conftest import experiment, puzzles

with warnings.catch_warnings(action="ignore"):  # MLflow warns of its own type hints.
    from tasks.serving import served_model
    from tasks.serving.served_model import Refusal, Solver, _contents

TASKS = puzzles()["arc-agi_evaluation_challenges.json"] | puzzles()["arc-agi_training_challenges.json"]


def frame(values: Any, **index: Any) -> pd.DataFrame:
    return pd.DataFrame({"tasks": values}, **index)


@pytest.mark.parametrize(
    "given",
    [
        {"tasks": TASKS},
        {"tasks": json.dumps(TASKS)},
        TASKS,
        json.dumps(TASKS),
        frame(list(TASKS.values()), index=list(TASKS)),
        frame([TASKS]),
        frame([json.dumps(TASKS)]),
        {name: {"train": np.array(task["train"], dtype=object), "test": task["test"]} for name, task in TASKS.items()},
    ],
)
def test_official_json_is_understood_in_every_form_that_mlflow_makes_of_it(given: Any) -> None:
    assert _contents(given) == TASKS


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "tasks must be an object of tasks by id, found 3"),
        ({}, "found {}"),
        ({"tasks": []}, r"found \[\]"),
        ("{", "tasks"),
        (pd.DataFrame({"task": [1]}), r"found the keys \['task'\]"),
        ({"a": ["x" * 50]}, None),
        (["y" * 60], r"found \['y{38}$"),
    ],
)
def test_anything_else_is_refused_with_the_reason(given: Any, says: str | None) -> None:
    if says is None:
        assert _contents(given) == given
        return
    with pytest.raises(Refusal, match=says) as refused:
        _contents(given)
    assert refused.value.message == refused.value.reason
    assert refused.value.get_http_status_code() == 400


def test_a_request_of_too_many_cells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {"a": [[1, 2, 3], [4, 5, {"b": 6}]]}
    monkeypatch.setattr(served_model, "LARGEST_CELLS", 6)
    assert _contents(cells) == cells
    monkeypatch.setattr(served_model, "LARGEST_CELLS", 5)
    with pytest.raises(Refusal, match="the request has 6 cells; at most 5 are allowed"):
        _contents(cells)


def solver(monkeypatch: pytest.MonkeyPatch, failures: list[str]) -> Solver:
    """Answers with a grid of one colour that three of four views proposed; two test inputs of one task."""
    right, wrong = np.array([[1, 2]], dtype=np.uint8), np.array([[3]], dtype=np.uint8)
    given = SimpleNamespace(candidates=[wrong, right], choice=np.array([1, 0, 1, 1]))

    def answer(network: Any, description: Any, known: Any, *_: Any) -> Any:
        keys = [(name, i) for name, task in known.items() for i in range(len(task.test))]
        attempts = {key: [right, wrong] if key[1] == 0 else [wrong] for key in keys}
        return attempts, dict.fromkeys(keys, given), failures

    monkeypatch.setattr(solving, "answer", answer)
    one = Solver()
    one.network, one.evaluation, one.rule, one.trained = None, None, None, None  # type: ignore[assignment]
    one.description = SimpleNamespace(tasks=("bbbbbbbb", "cccccccc"))  # type: ignore[assignment]
    return one


def test_each_test_input_has_a_row_with_attempts_sizes_and_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = solver(monkeypatch, []).predict(None, {"tasks": {"bbbbbbbb": TASKS["bbbbbbbb"]}}).to_dict("records")
    both = {"task": "bbbbbbbb", "proposals": 4, "attempt_2": [[3]], "size_2": [1, 1], "votes_2": 1}
    assert rows == [
        {"test": 0, "attempt_1": [[1, 2]], "size_1": [1, 2], "votes_1": 3, **both},
        {"test": 1, "attempt_1": [[3]], "size_1": [1, 1], "votes_1": 1, **both},
    ]


def test_unknown_tasks_wrong_grids_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match=r"1 of 3 tasks are not known .*: aaaaaaaa \(not in its task index\)$"):
        solver(monkeypatch, []).predict(None, TASKS)
    many = {f"{i:08}": TASKS["aaaaaaaa"] for i in range(11)}
    with pytest.raises(Refusal, match=r"00000009 \(not in its task index\), \.\.\.$"):
        solver(monkeypatch, []).predict(None, many)
    with pytest.raises(Refusal, match="is 12"):
        solver(monkeypatch, []).predict(None, {"bbbbbbbb": TASKS["bbbbbbbb"] | {"test": [{"input": [[12]]}]}})
    with pytest.raises(RuntimeError, match=r"^one; two$"):
        solver(monkeypatch, ["one", "two"]).predict(None, {"bbbbbbbb": TASKS["bbbbbbbb"]})


@pytest.mark.parametrize(("name", "deterministic"), [(None, True), ("", True), ("cpu", True), ("meta", False)])
def test_a_model_is_loaded_from_its_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, deterministic: bool
) -> None:
    config = experiment(evaluations={"votes": {"weights": "raw"}}, score={"size_first": True})
    settings = {"evaluation": config.evaluations["votes"].model_dump(mode="json"), "score": config.score.model_dump()}
    pairs = [
        {"task": "a", "number": 0, "input": [[1, 2]], "output": [[3], [4]]},
        {"task": "a", "number": 1, "input": [[5]], "output": None},
    ]
    for file, contents in (("settings.json", settings), ("pairs.json", pairs)):
        (tmp_path / file).write_text(json.dumps(contents))
    artifacts = {part: str(tmp_path / f"{part}.json") for part in ("settings", "pairs")}
    artifacts["weights"] = str(tmp_path / "best.safetensors")
    asked: list[Any] = []
    monkeypatch.setattr(checkpoints, "load", lambda *given: asked.append(given) or ("network", "description"))
    monkeypatch.delenv("ARC_DEVICE", raising=False)
    if name is not None:
        monkeypatch.setenv("ARC_DEVICE", name)
    torch.use_deterministic_algorithms(False)
    one = Solver()
    one.load_context(SimpleNamespace(artifacts=artifacts))
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert asked == [(tmp_path / "best", torch.device(name or "cpu"), "raw")]
    assert [vars(one)[name] for name in ("network", "description")] == ["network", "description"]
    assert (one.evaluation, one.rule) == (config.evaluations["votes"], config.score)
    assert list(one.trained) == [("a", 0), ("a", 1)]
    given, answer = one.trained["a", 0]
    assert (given.tolist(), answer.tolist(), given.dtype) == ([[1, 2]], [[3], [4]], np.uint8)
    assert (one.trained["a", 1][0].tolist(), one.trained["a", 1][1]) == ([[5]], None)


def test_a_refusal_shows_the_beginning_of_what_was_found() -> None:
    with pytest.raises(Refusal) as refused:
        _contents(["y" * 60])
    assert refused.value.message == f"tasks must be an object of tasks by id, found ['{'y' * 38}"
    with pytest.raises(Refusal) as refused:
        _contents("[1, 2]")
    assert refused.value.message == "tasks must be an object of tasks by id, found [1, 2]"


@pytest.mark.parametrize("count", [10, 11])
def test_at_most_ten_unknown_tasks_are_named(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    names = [f"{i:08}" for i in range(count)]
    with pytest.raises(Refusal) as refused:
        solver(monkeypatch, []).predict(None, dict.fromkeys(names, TASKS["aaaaaaaa"]))
    named = ", ".join(f"{name} (not in its task index)" for name in names[:10]) + ", ..." * (count > 10)
    assert refused.value.message == f"{count} of {count} tasks are not known to the checkpoint: {named}"
