"""Interrupted runs and their continuation in a real MLflow store, and what is written there, in a made-up one."""

import contextlib
import hashlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.runs import interruption, records
from tasks.common import paths
from tasks.common.params import flatten
from tasks.tracking import mlflow_runs, store
from tests.conftest import experiment


@pytest.mark.slow
def test_a_continuation_is_connected_with_the_interrupted_runs_of_its_parameters_only(workspace, monkeypatch) -> None:
    for name in ("ARC_HOME", "ARC_SCRATCH", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARC_SCRATCH", str(workspace / "scratch"))
    monkeypatch.setenv("ARC_HOME", str(workspace))
    interruption.write("first", "KILLED", "cancelled")
    interruption.write("second", "FAILED", "the disk is full")
    same = paths.EXPERIMENT.read_text()
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment(seed=1).model_dump(mode="json")))
    interruption.write("other", "KILLED", "cancelled")
    paths.EXPERIMENT.write_text(same)
    place = store.configured_store()
    client = mlflow_runs.connect(place)
    number = mlflow_runs.experiment_id(client, place, experiment().publish.experiment)
    published = client.create_run(number, run_name="published").info.run_id
    runs: dict[Any, Any] = {run.data.tags.get("arc.flow_run"): run for run in client.search_runs([number])}
    assert set(interruption.connect(published)) == {runs["first"].info.run_id, runs["second"].info.run_id}
    tags = {name: client.get_run(run.info.run_id).data.tags for name, run in runs.items()}
    assert {tags[name].get("arc.continued_by") for name in ("first", "second")} == {published}
    assert "arc.continued_by" not in tags["other"]
    assert set(tags[None]["arc.continues"].split()) == {runs[name].info.run_id for name in ("first", "second")}


class Client:
    """Stands in for MLflow's; `said` is what was asked of it, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.found: list[str] = []

    def create_run(self, number: str, run_name: str, tags: dict[str, str]) -> Any:
        self.said.append(("create", number, run_name, tags))
        return SimpleNamespace(info=SimpleNamespace(run_id="new"))

    def set_terminated(self, run: str, status: str) -> None:
        self.said.append(("end", run, status))

    def log_batch(self, run: str, params: list[Any]) -> None:
        self.said.append(("params", run, params))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.said.append(("metric", run, name, value, step))

    def get_run(self, run: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(experiment_id=f"experiment of {run}"))

    def search_runs(self, experiments: list[str], wanted: str, max_results: int) -> list[Any]:
        self.said.append(("search", experiments, wanted, max_results))
        return [SimpleNamespace(info=SimpleNamespace(run_id=name)) for name in self.found]

    def set_tag(self, run: str, name: str, value: str) -> None:
        self.said.append(("tag", run, name, value))


@pytest.fixture
def client(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Of a store that is made up; `locked` and `created` are told too."""
    made = Client()

    @contextlib.contextmanager
    def locked(place: str) -> Iterator[None]:
        made.said.append(("lock", place))
        yield
        made.said.append(("unlock", place))

    def number(given: Any, place: str, name: str) -> str:
        assert given is made
        made.said.append(("number", place, name))
        return "4"

    monkeypatch.setenv("ARC_SCRATCH", str(workspace / "scratch"))
    monkeypatch.setenv("ARC_HOME", str(workspace))
    monkeypatch.setattr(store, "configured_store", lambda: "the store")
    monkeypatch.setattr(store, "locked", locked)
    monkeypatch.setattr(store, "create", lambda place: made.said.append(("create store", place)))
    monkeypatch.setattr(mlflow_runs, "connect", lambda place: made if place == "the store" else None)
    monkeypatch.setattr(mlflow_runs, "experiment_id", number)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())  # Importing the real one takes 2 s.
    monkeypatch.setitem(sys.modules, "mlflow.entities", SimpleNamespace(Param=lambda key, value: (key, value)))
    records.set_progress("run-1", records.Progress(stage="train", step=70))
    return made


def of_parameters() -> str:
    """The digest of the resolved experiment's file, as a digest of digests."""
    return hashlib.sha256(hashlib.sha256(paths.EXPERIMENT.read_bytes()).digest()).hexdigest()


def test_an_interrupted_run_is_written_ended_before_its_parameters(client: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["interruption", "run-1", "KILLED", "cancelled by hand", "too much"])
    runpy.run_path(interruption.__file__, run_name="__main__")
    ours, said = experiment(), client.said
    assert said[:4] == [
        ("lock", "the store"),
        ("create store", "the store"),
        ("number", "the store", ours.publish.experiment),
        ("unlock", "the store"),
    ]
    assert said[4] == (
        "create",
        "4",
        f"{ours.title} seed 0, interrupted",
        {
            "arc.run": "interrupted",
            "arc.parameters": of_parameters(),
            "arc.flow_run": "run-1",
            "arc.stage": "train",
            "arc.reason": "cancelled by hand",
            "arc.experiment": ours.name,
            "arc.title": ours.title,
            "arc.seed": "0",
        },
    )
    assert said[5] == ("end", "new", "KILLED")
    assert said[-1] == ("metric", "new", "train/last_update", 70, 70)
    batches = [rows for kind, run, rows in said[6:-1] if (kind, run) == ("params", "new")]
    params = dict(row for rows in batches for row in rows)
    assert len(batches) == len(said) - 7
    assert [len(rows) for rows in batches[:-1]] == [100] * (len(batches) - 1), "as many as MLflow takes at once"
    assert 0 < len(batches[-1]) <= 100
    assert len(batches) > 1
    assert params == flatten(ours.model_dump(mode="json")), "every one, each once"
    assert sum(map(len, batches)) == len(params)
    assert (params["train.network.width"], params["seed"]) == ("32", "0")


@pytest.mark.parametrize("found", [["b", "a"], []])
def test_the_runs_that_a_published_one_continues_know_it(client: Client, found: list[str]) -> None:
    client.found = found
    assert interruption.connect("p") == found
    wanted = f"tags.`arc.run` = 'interrupted' and tags.`arc.parameters` = '{of_parameters()}'"
    marked = [("tag", name, "arc.continued_by", "p") for name in found]
    back = [("tag", "p", "arc.continues", "a b")] if found else []
    assert client.said == [("search", ["experiment of p"], wanted, 1000), *marked, *back]


def test_a_run_is_written_by_a_process_in_its_worktree_once_it_has_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked, done = [], SimpleNamespace(returncode=0, stderr="a warning")
    run = lambda command, **options: asked.append((command, options)) or done  # noqa: E731
    monkeypatch.setattr(interruption, "subprocess", SimpleNamespace(run=run))
    interruption.publish("r", tmp_path, "FAILED", "train: NaN")
    assert asked == [], "it has no parameters yet"
    (tmp_path / paths.EXPERIMENT).parent.mkdir(parents=True)
    (tmp_path / paths.EXPERIMENT).touch()
    interruption.publish("r", tmp_path, "FAILED", "train: NaN")
    command = [sys.executable, "-m", "flows.runs.interruption", "r", "FAILED", "train: NaN"]
    assert asked == [(command, {"cwd": tmp_path, "capture_output": True, "text": True})]
    assert capsys.readouterr() == ("", "")
    done.returncode, done.stderr = -9, " no store\n"
    interruption.publish("r", tmp_path, "FAILED", "train: NaN")
    assert capsys.readouterr() == ("", "status FAILED of run r could not be written to MLflow: no store\n")
