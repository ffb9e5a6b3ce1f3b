"""Publishing to a real store, with a made-up result: whole, once, and in order; and a training while it runs."""

import json
import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks.common import events, paths
from tasks.common.stage import StageError
from tasks.tracking import live, mlflow_runs, models, promotion, store
from tasks.tracking.mlflow_runs import Data, Point, Record, Result
from tests.conftest import experiment
from tests.support.stored import client, made_store, place  # noqa: F401

COUNT = 1200
"""Points of a curve: more than one call may log."""


def record(name: str, **changes: Any) -> Record:
    Path("a.json").write_text('{"a": 1}')
    Path("b.parquet").write_bytes(b"PAR1")
    artifacts = {"shown.json": Path("a.json"), "b.parquet": Path("b.parquet")}
    return Record(name, **{"tags": {"t": name}, "params": {}, "points": [], "artifacts": artifacts, **changes})


def result(**changes: Any) -> Result:
    data = Data("aa1", "d" * 12, "{}", "{}")
    child = record("e", points=[Point("pass_at_2", 0.5, 0)])
    given = {"experiment": "exp/x", "training": record("t"), "models": {}, "data": data}
    return Result(**{**given, "evaluations": [("best", child)], "training_key": "k", **changes})


def found(client: Any, wanted: str = "") -> list[Any]:
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()], wanted))


def test_a_result_is_published_whole_and_once_and_replaces_the_live_run(place, client) -> None:
    live_run = client.create_run("0", tags={mlflow_runs.LIVE: "k"}).info.run_id
    read: list[int] = []
    params = {f"p{i}": str(i) for i in range(250)}
    points = [Point("loss", 1 / (1 + i), i) for i in range(COUNT)]
    whole = result(training=record("t", params=params, points=points, times=(10.0, 25.5)))
    assert not mlflow_runs.holds(place, "key")
    assert not mlflow_runs.ever_held(place, "key")
    assert mlflow_runs.publish(place, "key", lambda: read.append(1) or whole)
    assert not mlflow_runs.publish(place, "key", lambda: read.append(1) or whole)
    assert read == [1]
    (parent,) = found(client, "tags.`arc.run` = 'experiment'")
    (child,) = found(client, "tags.`arc.run` = 'evaluation'")
    assert mlflow_runs.run_of(place, "key") == (parent.info.experiment_id, parent.info.run_id)
    assert [run.info.run_id for run in mlflow_runs.trainings(place)] == [parent.info.run_id]
    assert client.get_run(live_run).info.lifecycle_stage == "deleted"
    assert (parent.info.status, parent.info.start_time, parent.info.end_time) == ("FINISHED", 10_000, 25_500)
    assert len(parent.data.params) == 250
    curve = sorted((p.step, p.value) for p in client.get_metric_history(parent.info.run_id, "loss"))
    assert curve == [(i, 1 / (1 + i)) for i in range(COUNT)]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["arc.key"], child.data.tags["t"]) == ("key", "e")
    [used] = parent.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == ("aa1", "d" * 12, "training")
    assert child.inputs.dataset_inputs[0].tags[0].value == "evaluation"
    assert Path(parent.info.artifact_uri).is_relative_to(Path.cwd() / "mlartifacts")
    files = {name: Path(client.download_artifacts(parent.info.run_id, name)) for name in ("shown.json", "b.parquet")}
    assert [file.read_bytes() for file in files.values()] == [b'{"a": 1}', b"PAR1"]
    mlflow_runs.set_branch(place, "key", "exp/v3")
    mlflow_runs.set_branch(place, "key", "exp/v3")
    mlflow_runs.set_branch(place, "unknown", "exp/v4")
    tags = client.get_run(parent.info.run_id).data.tags
    assert (tags["arc.branch"], tags["mlflow.note.content"].count("git switch exp/v3")) == ("exp/v3", 1)
    client.delete_run(parent.info.run_id)
    assert (mlflow_runs.holds(place, "key"), mlflow_runs.ever_held(place, "key")) == (False, True)


def test_what_failed_halfway_is_marked_and_removed_by_the_next_attempt(place, client, monkeypatch) -> None:
    bad = record("e", artifacts={"x": Path("missing.txt")})
    with pytest.raises(FileNotFoundError):
        mlflow_runs.publish(place, "key", lambda: result(evaluations=[("best", bad)]))
    assert {run.info.status for run in found(client)} == {"FAILED"}
    other = client.create_run("0", tags={mlflow_runs.KEY: "other"}).info.run_id
    assert mlflow_runs.publish(place, "key", result)
    assert sorted(run.info.status for run in found(client, "tags.`arc.key` = 'key'")) == ["FINISHED", "FINISHED"]
    assert client.get_run(other).info.status == "KILLED", "nobody else publishes: it was killed"

    def interrupted(client: Any, experiment: str, key: str, _: Any) -> None:
        client.create_run(experiment, tags={mlflow_runs.KEY: key})
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_runs, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mlflow_runs.publish(place, "third", result)
    assert [run.info.status for run in found(client, "tags.`arc.key` = 'third'")] == ["KILLED"]


def test_models_are_outputs_of_the_training_and_inputs_of_the_evaluations(place, client, monkeypatch) -> None:
    numbers = iter(range(9))
    registered: list[Any] = []

    def log(client: Any, experiment: str, run: str, model: Any, tags: Any) -> str:
        return str(client.create_logged_model(experiment, f"{model.name}{next(numbers)}", run, tags).model_id)

    monkeypatch.setattr(models, "log", log)
    monkeypatch.setattr(models, "register", lambda _, model, name, run, tags: registered.append((name, run, tags)))
    monkeypatch.setattr(promotion, "consider", lambda _, name, key, tag: registered.append((name, key, tag)))
    made = {name: SimpleNamespace(name=name, step=step, registered="r") for name, step in (("best", 3), ("final", 9))}
    assert mlflow_runs.publish(place, "key", lambda: result(models=made))
    (parent,) = found(client, "tags.`arc.run` = 'experiment'")
    (child,) = found(client, "tags.`arc.run` = 'evaluation'")
    outputs = {output.step: output.model_id for output in client.get_run(parent.info.run_id).outputs.model_outputs}
    assert set(outputs) == {3, 9}
    assert [used.model_id for used in client.get_run(child.info.run_id).inputs.model_inputs] == [outputs[3]]
    tags = {"arc.key": "key"}
    rows = [(outputs[step], parent.info.run_id, tags) for step in (3, 9)]
    assert registered == [*rows, ("r", "key", "arc.key")]
    version = client.create_registered_model("r") and client.create_model_version("r", "/x", tags=tags)
    mlflow_runs._discard(client, "key")
    assert found(client) == []
    assert client.search_logged_models([parent.info.experiment_id]) == []
    assert version.version
    assert client.search_model_versions("name = 'r'") == []


def test_only_this_user_can_read_a_new_store(made_store) -> None:
    assert made_store.stat().st_mode & 0o777 == 0o600


def test_a_broken_store_is_told_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mlflow.db").write_bytes(b"no database" * 100)
    broken = store.configured_store()
    with pytest.raises(StageError, match="is no MLflow store: file is not a database"):
        store.relocate(broken)
    assert not store.Store("http://x", None, None).empty
    Path("mlflow.db").write_bytes(b"")
    assert broken.empty
    store.relocate(broken)
    assert mlflow_runs.run_of(broken, "key") is None
    assert not mlflow_runs.ever_held(broken, "key")


@pytest.mark.parametrize("left", [False, True])
def test_artifacts_follow_a_moved_folder_unless_they_stayed(place, client, tmp_path, left) -> None:
    (tmp_path / "old").mkdir()
    before = tmp_path / "old" / "mlartifacts"
    if left:
        before.mkdir()
    mlflow_runs.experiment_id(client, place, "x")
    own = client.create_experiment("own", artifact_location="s3://bucket/mlartifacts/x")
    with sqlite3.connect(place.database) as connection:
        connection.execute("update experiments set artifact_location = ? where name = 'x'", (f"{before}/x",))
    connection.close()
    store.relocate(place)
    assert client.get_experiment_by_name("x").artifact_location == str((before if left else place.artifacts) / "x")
    assert client.get_experiment(own).artifact_location == "s3://bucket/mlartifacts/x"


def test_one_process_at_a_time_writes_to_a_store(place, capsys) -> None:
    entered: list[float] = []

    def write() -> None:
        with store.locked(place):
            entered.append(time.monotonic())

    with store.locked(place):
        second = threading.Thread(target=write)
        second.start()
        deadline = time.monotonic() + 60
        said = ""
        while "waiting" not in said:
            said += capsys.readouterr().out
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not entered
        left = time.monotonic()
    second.join(60)
    assert entered[0] >= left
    assert place.database.with_name("mlflow.db.lock").exists()
    with store.locked(store.Store("http://there", None, None)):
        assert len(list((paths.SCRATCH / "publish").glob("*.lock"))) == 1


@pytest.fixture
def follower(place, monkeypatch) -> Any:
    """Of a training whose events are three rows, a candidate, a warning and its end."""
    monkeypatch.setattr(live.Follower, "_monitor", lambda self: None)
    folder = paths.SCRATCH / "live" / "key"
    folder.mkdir(parents=True)
    told: list[Any] = [
        events.Row(values={"step": i, "loss": 0.5, "validation_loss": 0.25}, at=3.0 + i) for i in range(3)
    ]
    told += [events.Warned(message="w" * 6000), events.Failed(reason="stopped", message="saved")]
    (folder / "events.jsonl").write_text("".join(event.model_dump_json() + "\n" for event in told))
    return live.Follower(folder, experiment().model_dump(mode="json"))


def test_a_training_is_shown_while_it_runs_and_goes_on_where_it_was(follower, client, monkeypatch) -> None:
    monkeypatch.setattr(live, "BATCH", 4)
    follower.connect()
    follower.deliver(client)
    run = client.get_run(follower.run)
    assert (run.info.status, run.info.run_name) == ("RUNNING", f"{experiment().title} seed 0")
    assert (run.data.tags["arc.live"], run.data.tags["arc.run"], len(run.data.tags["arc.warning"])) == (
        "key",
        "live",
        5000,
    )
    assert run.data.params["train.network.width"] == "32"
    points = {(p.step, p.timestamp, p.value) for p in client.get_metric_history(follower.run, "train/loss")}
    assert points == {(i, 3000 + 1000 * i, 0.5) for i in range(3)}
    assert len(client.get_metric_history(follower.run, "validation/loss")) == 3
    state = json.loads((follower.folder / "state.json").read_text())
    assert state == {"run": follower.run, "offset": (follower.folder / "events.jsonl").stat().st_size}
    client.set_terminated(follower.run, "KILLED")
    again = live.Follower(follower.folder, follower.parameters)
    again.connect()
    assert (again.run, again.offset) == (follower.run, state["offset"])
    assert client.get_run(again.run).info.status == "RUNNING"
    again.outcome = follower.outcome
    again.monitor = SimpleNamespace(finish=lambda: monkeypatch.setattr(live, "BATCH", 0))
    again.end(client)
    ended = client.get_run(again.run)
    assert (ended.info.status, ended.data.tags["arc.reason"]) == ("KILLED", "stopped: saved")
    assert live.BATCH == 0, "the monitor has ended"
    (follower.folder / "state.json").write_text('{"run": "of another store", "offset": 5}')
    fresh = live.Follower(follower.folder, follower.parameters)
    fresh.connect()
    assert (fresh.run, fresh.offset) == (follower.run, 0), "everything is sent again"


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (events.Trained(), ("FINISHED", "")),
        (events.Failed(reason="out of memory", message="8 GB"), ("FAILED", "out of memory: 8 GB")),
        (events.Failed(reason="stopped", message="saved"), ("KILLED", "stopped: saved")),
    ],
)
def test_the_outcome_is_that_of_the_last_event(tmp_path, event, outcome) -> None:
    (tmp_path / "events.jsonl").write_text(event.model_dump_json() + "\n")
    follower = live.Follower(tmp_path, {})
    follower.deliver(SimpleNamespace())
    assert follower.outcome == outcome


def test_the_follower_ends_with_the_training_and_waits_for_a_store_that_is_away(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    paths.EXPERIMENT.parent.mkdir()
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment().model_dump(mode="json")))
    done: list[str] = []
    clock = SimpleNamespace(now=0.0)
    fails = [2]

    def deliver(self: Any, client: Any) -> None:
        if fails[0]:
            fails[0] -= 1
            raise ConnectionError("away")
        done.append("delivered")

    def sleep(seconds: float) -> None:
        clock.now += seconds

    waits = iter([[], [0], [0], [0]])
    monkeypatch.setattr("tasks.tracking.live.signal.signal", lambda *_: None)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep, ctime=lambda: "now"))
    monkeypatch.setattr("tasks.tracking.live.select.select", lambda *_: (next(waits), [], []))
    monkeypatch.setattr(live.Follower, "connect", lambda self: done.append("connected") or "client")
    monkeypatch.setattr(live.Follower, "deliver", deliver)
    monkeypatch.setattr(live.Follower, "end", lambda self, client: done.append(f"ended {client}"))
    live.main(tmp_path)
    assert done == ["connected", "delivered", "ended client"]
    assert capsys.readouterr().out == "now: ConnectionError: away\n" * 2
    fails[0] = 10**6
    waits = iter([[0]])
    began = clock.now
    live.main(tmp_path)
    assert clock.now - began == pytest.approx(live.PATIENCE_SECONDS, abs=3 * live.EVERY_SECONDS)
    waits = iter([[]])
    live.main(tmp_path / "removed")
    assert done.count("ended client") == 1
