"""A training in MLflow while it runs, against a real store and server: each point once, whatever the server does."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.common import events, paths
from tasks.servers import ui
from tasks.tracking import mlflow_runs, store
from tests.conftest import ROOT, experiment

CHILD = """
import json, sys, time
from tasks.common import events
from tasks.files import live
live.start("key")
took = []
for step in range(int(sys.argv[1])):
    began, before = time.time(), time.perf_counter()
    events.emit(events.Row(values={"step": step, "loss": 1.0 / (1 + step), "accuracy": 0.5}))
    emitted = time.perf_counter()
    time.sleep(0.01)
    took.append((began, emitted - before, time.perf_counter() - before))
with open("took.json", "w") as file:
    json.dump(took, file)
exec(sys.argv[2])
"""
STALLED = """
import os
events.emit(events.Warned(message='loss 9'))
events.emit(events.Failed(reason='no progress', message='for 2 s'))
os._exit(6)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout with a resolved experiment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    paths.EXPERIMENT.parent.mkdir()
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment().model_dump(mode="json")))
    return tmp_path


def train(count: int, end: str = "events.emit(events.Trained())", **variables: str) -> "subprocess.Popen[bytes]":
    """A process that reports `count` rows, 100 a second, then executes `end`.

    took.json has, of each update, when it began, and the seconds that its row and the whole of it took.
    """
    environment = {k: v for k, v in os.environ.items() if k != "ARC_LIVE"} | {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-c", CHILD, str(count), end]
    return subprocess.Popen(command, env=environment)


def until(check: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := check()):
        log = Path(".scratch/live/key/log.txt")
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.3)
    return result


def live_run(client: Any) -> Any:
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.`arc.run` = 'live'")
    assert len(found) <= 1
    return found[0] if found else None


def points(client: Any, run: str) -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in client.get_metric_history(run, "train/loss")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ("events.emit(events.Trained())", "FINISHED", None),
        pytest.param(
            "events.emit(events.Failed(reason='out of memory', message='8 GB'))",
            "FAILED",
            "out of memory: 8 GB",
            marks=pytest.mark.night,
        ),
        pytest.param(
            "events.emit(events.Failed(reason='stopped', message='saved'))",
            "KILLED",
            "stopped: saved",
            marks=pytest.mark.night,
        ),
        pytest.param(STALLED, "FAILED", "no progress: for 2 s", marks=pytest.mark.night),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "KILLED", "the training was killed"),
    ],
)
def test_a_run_is_there_from_the_start_and_ends_with_its_reason(folder, end, status, reason):
    process = train(2000, end)
    until(lambda: Path("mlflow.db").exists())
    client = mlflow_runs.connect(store.configured_store())
    run = until(lambda: live_run(client))
    until(lambda: points(client, run.info.run_id))
    assert process.poll() is None
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    process.wait()
    done = until(lambda: (r := client.get_run(run.info.run_id)).info.status != "RUNNING" and r)
    assert done.info.status == status
    assert done.data.params["train.network.width"] == "32"
    assert (done.data.tags.get("arc.reason") or "").startswith(reason or "")
    assert done.data.tags.get("arc.warning") == ("loss 9" if end == STALLED else None)
    assert points(client, run.info.run_id) == [(step, 1 / (1 + step)) for step in range(2000)]


@pytest.mark.slow
def test_a_server_that_is_killed_for_a_while_slows_nothing_and_gets_each_point_once(folder):
    page, port = ui.mlflow_page(store.configured_store()), ui.free(51000, set())
    store.create(store.configured_store())

    def serve() -> "subprocess.Popen[bytes]":
        server = ui.start(page, port)
        ui.wait(page, port, server)
        return server

    server = serve()
    try:
        address = f"http://127.0.0.1:{port}"
        count = 3000
        user, _, password = ui.secret().partition(":")
        known = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        process = train(count, MLFLOW_TRACKING_URI=address, **known)
        client = mlflow_runs.connect(store.configured_store())
        run = until(lambda: live_run(client)).info.run_id
        until(lambda: points(client, run))
        away = time.time()
        server.kill()
        ui.end([server])
        time.sleep(10)
        server = serve()
        back = time.time()
        process.wait(timeout=300)
        until(lambda: client.get_run(run).info.status == "FINISHED")
        assert points(client, run) == [(step, 1 / (1 + step)) for step in range(count)]
        took = json.loads(Path("took.json").read_text())
        rows = statistics.median(row for _, row, _ in took)
        # 1 % of the time if every tenth of 100 updates a second logged a row; log_every is 100.
        assert rows < 10 * 0.01 * 0.01, f"median {1e6 * rows:.0f} us a row"
        there = [update for began, _, update in took if not away < began < back]
        meanwhile = [update for began, _, update in took if away < began < back]
        assert len(meanwhile) > 200
        usual = statistics.median(there)
        assert statistics.median(meanwhile) < 2 * usual
        # A call to the server that is away would take seconds; a busy machine takes some of these 500 ms.
        assert max(meanwhile) < 2 * usual + 0.5
    finally:
        ui.end([server])


@pytest.mark.slow
def test_what_is_sent_again_after_a_crash_arrives_once(folder, monkeypatch):
    from tasks.tracking import live

    monkeypatch.setattr(live.Follower, "_monitor", lambda self: None)
    place = folder / ".scratch" / "live" / "key"
    place.mkdir(parents=True)
    lines = [events.Row(values={"step": step, "loss": 0.5}).model_dump_json() for step in range(5)]
    (place / "events.jsonl").write_text("\n".join(lines) + "\n")
    parameters = experiment().model_dump(mode="json")
    for _ in range(3):
        follower = live.Follower(place, parameters)
        client = follower.connect()
        follower.deliver(client)
        (place / "state.json").write_text(json.dumps({"run": follower.run, "offset": 0}))
    assert points(client, follower.run) == [(step, 0.5) for step in range(5)]


@pytest.mark.slow
def test_curves_and_scores_of_candidates_have_the_names_that_publish_gives_them(folder, monkeypatch):
    from tasks.tracking import live

    monkeypatch.setattr(live.Follower, "_monitor", lambda self: None)
    place = folder / ".scratch" / "live" / "key"
    place.mkdir(parents=True)
    row = {"step": 8.0, "loss": 0.5, "validation_loss": 0.75, "gradient_norm": 2.0}
    candidate = events.CandidateScored(
        step=8, pass_at_2=0.25, ci95=(0.125, 0.5), cell_accuracy=0.625, grids_solved=1, n_grids=4
    )
    told = [events.Row(values=row), candidate]
    (place / "events.jsonl").write_text("".join(event.model_dump_json() + "\n" for event in told))
    follower = live.Follower(place, experiment().model_dump(mode="json"))
    client = follower.connect()
    follower.deliver(client)
    found = {
        (name, p.step, p.value)
        for name in client.get_run(follower.run).data.metrics
        for p in client.get_metric_history(follower.run, name)
    }
    assert found == {
        ("train/loss", 8, 0.5),
        ("train/gradient_norm", 8, 2.0),
        ("validation/loss", 8, 0.75),
        ("validation/pass_at_2", 8, 0.25),
        ("validation/ci95_low", 8, 0.125),
        ("validation/ci95_high", 8, 0.5),
        ("validation/cell_accuracy", 8, 0.625),
        ("validation/grids_solved", 8, 1.0),
        ("validation/n_grids", 8, 4.0),
    }
