"""`arc list` against a real store: best first, running and scoreless runs last, and sentences for empty answers."""

import re
import time
from typing import Any

import pytest

from tasks.commands import list_runs
from tasks.common.stage import StageError
from tasks.tracking import mlflow_runs, store
from tests.support.stored import made_store, place  # noqa: F401


def training(client: Any, name: str, score: float | None, dataset: str = "aa1", status: str = "FINISHED") -> None:
    """The run of a training, with what `publish` writes that the list shows, and an evaluation below it."""
    tags = {"arc.dataset": dataset, mlflow_runs.KIND: "experiment" if score is not None else "live"}
    if score is not None:
        tags["arc.pass_at_2"] = f"best-votes {100 * score:.1f} [0.0–9.9]"
    run = client.create_run("0", run_name=name, tags=tags).info.run_id
    client.log_param(run, "train.optimizer_steps", "700")
    if score is not None:
        client.log_metric(run, "pass_at_2/best-votes", score)
        client.log_metric(run, "pass_at_2/final-votes", 1 - score)  # Not what they are sorted by.
        client.log_metric(run, "cost/training_minutes", 12.34)
        client.create_run("0", run_name=f"{name} best-votes", tags={mlflow_runs.KIND: "evaluation"})
    if status != "RUNNING":
        client.set_terminated(run, status, end_time=int(1000 * time.mktime((2026, 1, 2, 3, 4, 0, 0, 0, -1))))


@pytest.fixture
def filled(place: store.Store) -> store.Store:
    """A store with three results, of which one has a markup-like name, a running training and a failed one."""
    client = mlflow_runs.connect(place)
    training(client, "v1/smol/aa1 seed 0", 0.05)
    training(client, "v3/smol/aa1 [bold] seed 0", 0.335)
    training(client, "v2/smol/aa2 seed 0", 0.1, dataset="aa2")
    training(client, "v6/smol/aa1 seed 0", None, status="RUNNING")
    training(client, "v7/smol/aa1 seed 0", None, status="FAILED")
    return place


def test_the_best_is_first_and_what_has_no_score_last(filled, capsys):
    list_runs.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["pass@2", "%", "[95", "%]", "of", "run", "updates", "minutes", "ended"]
    assert [re.sub(" +", " ", line).strip() for line in lines[:3]] == [
        "33.5 [0.0–9.9] best-votes v3/smol/aa1 [bold] seed 0 700 12.3 2026-01-02 03:04",
        "10.0 [0.0–9.9] best-votes v2/smol/aa2 seed 0 700 12.3 2026-01-02 03:04",
        "5.0 [0.0–9.9] best-votes v1/smol/aa1 seed 0 700 12.3 2026-01-02 03:04",
    ]
    assert sorted(re.sub(" +", " ", line).strip() for line in lines[3:]) == [
        "failed v7/smol/aa1 seed 0 700 2026-01-02 03:04",
        "running v6/smol/aa1 seed 0 700",
    ]


def test_a_limit_keeps_the_best_and_says_how_many_are_left(filled, capsys):
    list_runs.main(limit=1)
    _, first, more = capsys.readouterr().out.splitlines()
    assert first.startswith("33.5")
    assert more == "4 more; --limit shows them"


def test_a_data_set_alone_and_one_that_nothing_has(filled, capsys):
    list_runs.main(dataset="aa2")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["10.0"]
    with pytest.raises(StageError, match=r"no run of data set 'aa3' in sqlite:.*; there are aa1, aa2$"):
        list_runs.listed(filled, "aa3")


def test_an_empty_store_says_what_fills_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = store.configured_store()
    with pytest.raises(StageError, match=r"the MLflow store sqlite:.* is empty; `arc import` publishes"):
        list_runs.listed(place)


def test_a_store_without_runs_says_what_fills_it(place):
    for dataset in (None, "aa1"):
        with pytest.raises(StageError, match=r"the MLflow store sqlite:.* holds no runs; `arc import` publishes"):
            list_runs.listed(place, dataset)


@pytest.mark.parametrize(("limit", "more"), [(2, "1 more; --limit shows them"), (3, None)])
def test_the_lines_that_are_left_out_are_counted(monkeypatch: Any, capsys: Any, limit: int, more: str | None) -> None:
    rows = [(f"{i}.0 [x]", "best-votes", f"run {i}", "700", "1.5", "today") for i in range(3)]
    asked: list[Any] = []
    monkeypatch.setattr(list_runs, "listed", lambda place, dataset: asked.append(dataset) or rows)
    list_runs.main(limit=limit)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : limit + 1]] == ["0.0", "1.0", "2.0"][:limit]
    assert "[x]" in lines[1]
    assert lines[limit + 1 :] == ([more] if more else [])
    assert asked == [None]
    assert lines[0].split() == ["pass@2", "%", "[95", "%]", "of", "run", "updates", "minutes", "ended"]
