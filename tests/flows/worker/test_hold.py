"""The queue is held while a disk is full, memory is short or a GPU is gone, and goes on by itself."""

import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.cluster import dvc_remote, settings
from flows.queue import deployment, flow_runs
from flows.runs.places import FlowError
from flows.worker import hold
from tests.support.flows_lab import ENDED, LONG, SHORT, Lab, until

NOW = datetime.now(UTC)
GIB = 2**30


class Server:
    """Stands in for Prefect's client."""

    def __init__(self) -> None:
        self.description, self.states, self.away = "", {}, False
        self.runs: dict[uuid.UUID, FlowRun] = {}

    def update_work_pool(self, _: str, update: Any) -> None:
        if self.away:
            raise OSError("away")
        self.description = update.description

    def set_flow_run_state(self, run: uuid.UUID, state: Any, force: bool = False) -> None:
        self.states[run] = state

    def read_flow_run(self, run: uuid.UUID) -> Any:
        return self.runs[run]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the machine has."""
    has = SimpleNamespace(free=9 * GIB, memory=9 * GIB, gpus=2)
    monkeypatch.setattr(hold, "folders", lambda: {"scratch": Path("/somewhere")})
    monkeypatch.setattr(hold, "gpus", lambda: has.gpus)
    monkeypatch.setattr(hold, "GPU_SECONDS", 0.0)
    monkeypatch.setattr(hold.shutil, "disk_usage", lambda _: SimpleNamespace(free=has.free))  # type: ignore[attr-defined]
    memory = lambda: SimpleNamespace(available=has.memory)  # noqa: E731
    monkeypatch.setattr(hold.psutil, "virtual_memory", memory)  # type: ignore[attr-defined]
    return has


def waiting(start: datetime) -> FlowRun:
    state = State(type=StateType.SCHEDULED, name="Scheduled")
    return FlowRun(flow_id=uuid.uuid4(), next_scheduled_start_time=start, expected_start_time=start).model_copy(
        update={"state": state}
    )


@pytest.mark.parametrize(
    ("what", "short", "enough", "says"),
    [
        ("free", GIB, 3 * GIB, r"1.00 GiB free at /somewhere \(scratch\); it goes on from 2.40 GiB"),
        ("memory", 0, 2 * GIB, "0.00 GiB of memory available"),
        ("gpus", 1, 2, "1 of 2 GPUs answer nvidia-smi"),
    ],
)
def test_the_queue_is_held_and_goes_on(machine, monkeypatch, what, short, enough, says) -> None:
    server: Any = Server()
    runs = [waiting(NOW - timedelta(minutes=1)), waiting(NOW + timedelta(days=1))]
    monkeypatch.setattr(flow_runs, "runs", lambda *_: runs)
    server.runs = {row.id: row for row in runs}
    held = hold.Hold()
    assert held.check(server) == []
    assert held.reason == ""
    setattr(machine, what, short)
    server.away = True
    with pytest.raises(OSError, match="away"):
        held.check(server)
    assert held.reason
    server.away = False
    held.check(server)
    assert re.search(says, held.reason)
    assert re.search(says, server.description)
    assert {run: state.name for run, state in server.states.items()} == {runs[0].id: "Held"}
    assert server.states[runs[0].id].state_details.scheduled_time == runs[0].next_scheduled_start_time
    assert re.search(says, server.states[runs[0].id].message)
    runs[0] = runs[0].model_copy(update={"state": server.states[runs[0].id]})
    server.runs[runs[0].id] = runs[0]
    if what != "gpus":
        setattr(machine, what, int(1.1 * (2 * GIB if what == "free" else GIB)))
        held.check(server)
        assert held.reason, "it does not go on at the limit itself"
    setattr(machine, what, enough)
    assert held.check(server) == ["the queue goes on"]
    assert held.reason == ""
    assert server.description == deployment.DESCRIPTION
    assert server.states[runs[0].id].name == "Scheduled"


def test_a_run_that_was_cancelled_since_it_was_listed_stays_so() -> None:
    server: Any = Server()
    listed = waiting(NOW - timedelta(minutes=1))
    server.runs = {listed.id: listed.model_copy(update={"state": State(type=StateType.CANCELLED)})}
    hold.show(server, "Held: no space", [listed])
    assert server.states == {}


def test_a_machine_without_the_dvc_remote_takes_no_runs(machine, monkeypatch) -> None:
    answers = iter(["", "no answer within 60 s", "no answer within 60 s", ""])
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr(dvc_remote, "configured", lambda _: True)
    monkeypatch.setattr(dvc_remote, "away", lambda: next(answers))
    held = hold.Hold()
    assert held.check_here() == []
    assert held.check_here() == [], "a look costs a process, so it is not asked each time"
    held.next_look = 0.0
    assert held.check_here() == ["this machine takes no runs: no answer within 60 s"]
    held.next_look = 0.0
    assert held.check_here() == []
    held.next_look = 0.0
    assert held.check_here() == ["this machine takes runs again"]


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "1e9"])
def test_a_wrong_limit_is_refused(monkeypatch, text) -> None:
    monkeypatch.setenv(hold.LIMIT_VARIABLE, text)
    with pytest.raises(FlowError, match="ARC_HOLD_GIB is"):
        hold.limit_gib()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Lab]:
    """A project whose scratch is a disk of 300 MiB."""
    lab = Lab(tmp_path, ARC_HOLD_GIB="0.05")
    scratch = tmp_path / ".scratch"
    scratch.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(scratch)]).returncode:
        pytest.skip("needs to mount a small disk")
    try:
        yield lab
    finally:
        lab.stop()
        subprocess.run(["umount", "--lazy", str(scratch)], check=True)


def fill(lab: Lab, left: int) -> Path:
    """A file that leaves `left` bytes."""
    path = lab.folder / ".scratch" / "filler"

    def filled() -> bool:  # A save may take some of what was free a moment ago.
        size = shutil.disk_usage(path.parent).free - left
        return not subprocess.run(["fallocate", "-l", str(size), str(path)]).returncode

    until(filled, 10)
    return path


@pytest.mark.slow
@pytest.mark.night
def test_a_full_disk_burns_no_queue_and_its_run_is_resumed(small_disk: Lab) -> None:
    lab = small_disk
    lab.start_worker()
    [long] = lab.queue(LONG)
    waiting = lab.queue(SHORT, "--seeds", "1,2")
    until(lambda: lab.saved() >= 20 and lab.step(long) >= 40, 120)
    filler = fill(lab, 0)
    until(lambda: "Crashed" in [name for name, _ in lab.states(long)], 120)
    message = next(text for name, text in lab.states(long) if name == "Crashed")
    print(message)
    assert "the disk is full" in message
    assert str(lab.folder / ".scratch") in message
    until(lambda: {name for run in waiting for name, _ in lab.states(run)[-1:]} == {"Held"}, 60)
    [pool] = lab.api("/work_pools/filter")
    assert f"GiB free at {lab.folder / '.scratch'} (scratch)" in pool["description"]
    listed = lab.arc("queue", "--list")
    assert listed.count("Held") >= 2
    filler.unlink()
    until(lambda: lab.resumed_from(long), 240)
    assert lab.resumed_from(long) >= 20
    lab.arc("queue", "--cancel", long[:8])
    until(lambda: all(lab.state(run) in ENDED for run in waiting), 400)
    assert [lab.state(run) for run in waiting] == ["COMPLETED"] * 2
    assert lab.api("/work_pools/filter")[0]["description"] == deployment.DESCRIPTION
    log = (lab.folder / ".scratch" / "runs" / long / "flow.log").read_text()
    assert "Traceback" not in log, log
