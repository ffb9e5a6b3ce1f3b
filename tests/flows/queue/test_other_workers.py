"""Who resumes the runs of a dead worker, and which queues a machine serves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType

from flows.cluster import owners, settings
from flows.queue import deployment
from flows.runs import products, records
from flows.runs.places import FlowError
from flows.worker import recovery


def run(worker: str, seconds: float = 60.0) -> Any:
    state = SimpleNamespace(timestamp=datetime.now(UTC) - timedelta(seconds=seconds))
    return SimpleNamespace(labels={owners.LABEL: worker} if worker else {}, state=state)


def test_one_of_the_living_takes_the_runs_of_the_dead() -> None:
    lost, kept, new, unnamed = run("dead-1"), run("b-2"), run("dead-1", 1.0), run("")
    living, later = {"a-1", "b-2"}, owners.return_seconds() + 1
    taken = []
    for name in sorted(living):
        orphans = owners.Orphans(name)
        assert orphans.of([lost, kept, new, unnamed], living, 0.0) == [], "the server may just be back"
        taken += orphans.of([lost, kept, new, unnamed], living, later)
    assert taken == [lost, unnamed]


def test_after_the_server_was_away_everybody_gets_time_to_return() -> None:
    orphans = owners.Orphans("a-1")
    orphans.of([], {"a-1"}, 0.0)
    orphans.lost_contact()
    assert orphans.of([run("b-2")], {"a-1"}, 1000.0) == []
    assert orphans.of([run("b-2")], {"a-1"}, 1000.0 + owners.return_seconds() - 1) == []
    assert len(orphans.of([run("b-2")], {"a-1"}, 1000.0 + owners.return_seconds())) == 1


def test_a_worker_that_the_server_does_not_know_takes_nothing() -> None:
    orphans = owners.Orphans("a-1")
    orphans.of([], {"b-1"}, 0.0)
    assert orphans.of([run("dead-1")], {"b-1"}, 1e6) == []
    assert orphans.of([run("dead-1")], set(), 1e6) == []


@pytest.mark.parametrize(
    ("seconds", "interval", "lives"), [(89, 30, True), (91, 30, False), (7, 2, False), (89, None, True)]
)
def test_three_heartbeats_decide_who_lives(seconds: float, interval: int | None, lives: bool) -> None:
    now = datetime.now(UTC)
    row = {
        "last_heartbeat_time": (now - timedelta(seconds=seconds)).isoformat(),
        "heartbeat_interval_seconds": interval,
    }
    assert owners.lives(row, now) is lives
    assert not owners.lives({**row, "last_heartbeat_time": None}, now)


class Connection:
    """Keeps the states that a run is given."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def set_flow_run_state(self, run: Any, state: Any, force: bool) -> None:
        self.states.append(state.name)

    def read_task_runs(self, **_: Any) -> list[Any]:
        return []

    def read_flow_run_states(self, _: Any) -> list[Any]:
        return []  # It was never suspended.


def test_a_run_outlives_two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))
    monkeypatch.setattr(settings, "alone", lambda: False)
    # It was here first, and died: how far it got on other machines is not known here.
    number, connection = uuid4(), Connection()
    records.set_progress(str(number), records.Progress(stage="train", step=100))
    for worker in (owners.worker_name(), "b-1", "b-2", "c-3"):
        state = SimpleNamespace(type=StateType.RUNNING, message="")
        lost = SimpleNamespace(id=number, name="x", state=state, deployment_id=1, labels={owners.LABEL: worker})
        print(recovery.settle(connection, lost, f"its worker {worker} sends no heartbeat"))
    assert connection.states == ["Crashed", "Resuming"] * 3 + ["Failed"]


def test_starting_is_short() -> None:
    assert owners.starting(run("x", 0.0))
    assert not owners.starting(run("x", owners.STARTING_SECONDS + 1))


@pytest.mark.parametrize(
    ("gpus", "queues"),
    [
        (0, ["high", "cpu-high", "normal", "cpu-normal", "default"]),
        (2, ["high", "gpu-high", "normal", "gpu-normal", "default"]),
    ],
)
def test_a_machine_serves_what_it_can(gpus: int, queues: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "gpus", lambda: gpus)
    assert deployment.served() is None, "alone it serves all"
    monkeypatch.setattr(settings, "alone", lambda: False)
    assert deployment.served() == queues


def test_every_request_has_a_queue_that_some_machine_serves() -> None:
    for machine in ("any", "gpu", "cpu"):
        for priority in ("high", "normal"):
            [request] = products.requests(["v3/tiny/aa1-6x6"], [], "0", priority, machine)
            assert deployment.queue_of(request.priority, request.machine) in deployment.QUEUES
    assert len(set(deployment.QUEUES.values())) == len(deployment.QUEUES)
    with pytest.raises(FlowError, match="--on is 'tpu'; allowed are any, gpu, cpu"):
        products.requests(["v3/tiny/aa1-6x6"], [], "0", "normal", "tpu")
