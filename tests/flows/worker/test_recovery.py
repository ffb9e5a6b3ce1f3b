"""Which dead runs are resumed, closed or kept suspended, and what is said about each; the server is made up."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from flows.cluster import owners
from flows.queue import suspension
from flows.runs import processes, records
from flows.worker import recovery
from tests.support.made_up_server import Server, run, state

RUNNING, PENDING, PAUSED, CRASHED = StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CRASHED
CANCELLING, SCHEDULED, FAILED, COMPLETED = (
    StateType.CANCELLING,
    StateType.SCHEDULED,
    StateType.FAILED,
    StateType.COMPLETED,
)


class Tasks(Server):
    """A server whose runs have tasks; `ended` are those that were given a state."""

    def __init__(self, *runs: Any) -> None:
        super().__init__(*runs)
        self.tasks: dict[Any, list[Any]] = {}
        self.ended: list[tuple[Any, Any]] = []

    def read_task_runs(self, flow_run_filter: Any, sort: Any, limit: int) -> list[Any]:
        assert (sort.value, limit) == ("ID_DESC", 200)
        [wanted] = flow_run_filter.id.any_
        return self.tasks.get(wanted, [])

    def set_task_run_state(self, task: Any, state: Any, force: bool) -> None:
        assert force, "Prefect would refuse to change the state of a running task"
        self.ended.append((task, state))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs called `elsewhere` are those of another machine; no run has a process, but those in `living`."""
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.setattr(recovery, "runs", lambda connection, *kinds: connection.of(*kinds))
    monkeypatch.setattr(owners, "here", lambda row: not row.name.startswith("elsewhere"))
    monkeypatch.setattr(processes, "end", lambda _: 0)
    monkeypatch.setattr(processes, "living", lambda _: [])
    return tmp_path


def history(server: Server, row: Any, *kinds: StateType) -> None:
    """The states that a run has had, told in another order than they came in."""
    server.states[row.id] = [state(kind, age=100.0 - i) for i, kind in enumerate(kinds)][::-1]


def suspended(kind: StateType, name: str = "run") -> Any:
    row = run(kind, name)
    row.state.is_paused = lambda: kind == PAUSED
    row.state.state_details = SimpleNamespace(pause_reschedule=True)
    return row


def test_every_dead_run_of_ours_is_settled_with_its_reason(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [run(kind, kind.value) for kind in (RUNNING, PENDING, CANCELLING)]
    left = suspended(PAUSED, "left"), suspended(PAUSED, "saved"), suspended(PAUSED, "elsewhere too")
    crashed = run(CRASHED, "crashed", message="out of memory"), run(CRASHED, "silent"), run(CRASHED, "elsewhere")
    by_hand = run(CRASHED, "by hand", deployment=None)
    alive, gone = run(RUNNING, "alive", deployment=None), run(RUNNING, "gone", deployment=None)
    processes.record(str(alive.id), os.getpid())
    others = run(RUNNING, "elsewhere"), run(SCHEDULED, "waits"), run(FAILED, "failed"), run(COMPLETED, "done")
    server: Any = Server(*ours, *left, *crashed, by_hand, alive, gone, *others)
    monkeypatch.setattr(processes, "living", lambda name: [1] if name != str(left[1].id) else [])
    settled = []

    def settle(_: Any, row: Any, why: str) -> str:
        settled.append((row.name, why))
        if row.name == "PENDING":
            raise ValueError("two\nlines")
        return f"{row.name} settled"

    monkeypatch.setattr(recovery, "settle", settle)
    log = recovery.recover(server)
    ended = [(row.name, "its worker ended") for row in (*ours, gone)]
    assert settled == [*ended, ("left", "suspended"), ("crashed", "out of memory"), ("silent", "crashed")]
    assert [row for row, _ in log] == [row.id for row in (*ours, gone, left[0], *crashed[:2])]
    assert [line for _, line in log][:3] == [
        "RUNNING settled",
        "PENDING: cannot be recovered: ValueError: two lines",
        "CANCELLING settled",
    ]


@pytest.mark.parametrize(("left", "said"), [(0, ""), (2, "; ended 2 processes")])
def test_what_a_dead_run_becomes(place: Path, monkeypatch: pytest.MonkeyPatch, left: int, said: str) -> None:
    cancelled, alone = run(CANCELLING, "cancelled"), run(RUNNING, "alone", deployment=None)
    far, near, paused = run(RUNNING, "elsewhere"), run(RUNNING, "near"), suspended(PAUSED, "paused")
    server: Any = Tasks(cancelled, alone, far, near, paused)
    history(server, paused, RUNNING, PAUSED)
    ended: list[str] = []
    monkeypatch.setattr(processes, "end", lambda name: ended.append(name) or left)
    rows = (cancelled, alone, far, near, paused)
    lines = [recovery.settle(server, row, "its worker ended") for row in rows]
    died = "died in no stage yet: its worker ended"
    assert lines == [
        f"cancelled: cancelled{said}",
        f"alone: crashed{said}",
        f"elsewhere: died on another machine: its worker ended; queued again{said}",
        f"near: {died}; queued again{said}",
        f"paused: suspended in no stage yet; Resume on its page queues it again{said}",
    ]
    assert ended == [str(row.id) for row in rows]
    assert [(row.state.type, row.state.name, row.state.message) for row in rows] == [
        (StateType.CANCELLED, "Cancelled", "cancelled"),
        (CRASHED, "Crashed", "its process ended"),
        (SCHEDULED, "Resuming", "died on another machine: its worker ended"),
        (SCHEDULED, "Resuming", died),
        (PAUSED, "Suspended", "suspended in no stage yet"),
    ]
    assert [given.message for given in server.states[near.id][1:]] == [died, died]
    assert [given.type for given in server.states[near.id][1:]] == [CRASHED, SCHEDULED]
    early = datetime.now(UTC) - near.state.state_details.scheduled_time
    assert timedelta(days=1) <= early < timedelta(days=1, minutes=1), "before all that wait"


def test_a_run_that_died_where_it_died_before_fails_and_a_full_disk_may_come_five_times(place: Path) -> None:
    row = run(RUNNING, "a run")
    server: Any = Tasks(row)
    name = str(row.id)
    records.set_progress(name, records.Progress(stage="train", step=7, began=1.0, taken=3.0, at=9.0))
    first = "died in train, after update 7: killed"
    assert recovery.resume(server, row.id, "a run", "killed") == f"a run: {first}; queued again"
    [stage] = records.stages(name)
    assert (stage.outcome, stage.seconds, stage.device_seconds) == ("killed", 8.0, 6.0)
    again = f"{first}; it died there before"
    assert recovery.resume(server, row.id, "a run", "killed") == f"a run: {again}, so it is not resumed"
    assert (row.state.type, row.state.message) == (FAILED, again)
    records.set_progress(name, records.Progress(stage="predict"))
    full = "predict: the disk is full: No space left"
    for _ in range(5):
        assert recovery.resume(server, row.id, "a run", full) == f"a run: died in predict: {full}; queued again"
    assert recovery.resume(server, row.id, "a run", full).endswith("so it is not resumed")


def test_a_run_whose_worker_was_stopped_goes_on_any_number_of_times(place: Path) -> None:
    row = run(RUNNING, "a run")
    server: Any = Tasks(row)
    name = str(row.id)
    records.set_progress(name, records.Progress(stage="predict"))
    for _ in range(3):
        records.mark_stopped(name)
        assert recovery.resume(server, row.id, "a run", "its worker ended").endswith("queued again")
    assert records.deaths(name) == []
    assert recovery.resume(server, row.id, "a run", "killed").endswith("queued again")
    assert recovery.resume(server, row.id, "a run", "killed").endswith("so it is not resumed")


def test_a_run_that_took_three_machines_with_it_is_not_resumed(place: Path) -> None:
    row = run(RUNNING, "elsewhere")
    server: Any = Tasks(row)
    server.tasks = {row.id: [SimpleNamespace(id=1, state_type=RUNNING)]}
    died = "elsewhere: died on another machine: no heartbeat"
    for _ in range(2):
        assert recovery.settle(server, row, "no heartbeat") == f"{died}; queued again"
    why = "died on another machine: no heartbeat; 3 machines have died with it, so it is not resumed"
    assert recovery.settle(server, row, "no heartbeat") == f"elsewhere: {why}"
    assert (row.state.type, row.state.message) == (FAILED, why)
    assert [(task, given.type, given.message) for task, given in server.ended] == [
        (1, CRASHED, "died on another machine: no heartbeat")
    ] * 3


@pytest.mark.parametrize(
    ("kinds", "now", "does"),
    [
        ((RUNNING, PAUSED), PAUSED, "kept"),
        ((RUNNING, PAUSED, PAUSED), CRASHED, "kept"),
        ((RUNNING, PAUSED, SCHEDULED), PAUSED, "resumed"),
        ((RUNNING, PAUSED, SCHEDULED, PAUSED), CRASHED, "kept"),
        ((PAUSED, SCHEDULED, RUNNING), CRASHED, ""),
        ((PAUSED, RUNNING, SCHEDULED, CRASHED), CRASHED, ""),
        ((RUNNING, PAUSED, COMPLETED), COMPLETED, ""),
        ((RUNNING, PAUSED, FAILED), FAILED, ""),
        ((RUNNING, CRASHED), CRASHED, ""),
    ],
)
def test_a_run_that_was_suspended_after_its_last_start_stays_so(
    place: Path, kinds: tuple[StateType, ...], now: StateType, does: str
) -> None:
    row = run(now, "a run")
    server: Any = Tasks(row)
    history(server, row, *kinds)
    server.tasks = {row.id: [SimpleNamespace(id=kind.value, state_type=kind) for kind in (RUNNING, FAILED, PENDING)]}
    name, before = str(row.id), len(server.states[row.id])
    records.set_progress(name, records.Progress(stage="train", step=40, began=10.0, at=12.0))
    said = recovery.settle_suspended(server, row)
    message = "suspended in train, after update 40"
    if not does:
        assert said is None
        assert (len(server.states[row.id]), server.ended, records.stages(name)) == (before, [], [])
        return
    [given] = server.states[row.id][before:]
    assert given.message == message
    assert [(task, ended.type, ended.name, ended.message) for task, ended in server.ended] == [
        (task, StateType.CANCELLED, "Suspended", message) for task in ("RUNNING", "PENDING")
    ]
    assert [stage.outcome for stage in records.stages(name)] == [message]
    if does == "kept":
        assert said == f"a run: {message}; Resume on its page queues it again"
        assert (given.type, given.name) == (PAUSED, "Suspended")
        assert given.state_details.pause_reschedule
        return
    assert said == f"a run: {message} and resumed"
    assert (given.type, given.name) == (SCHEDULED, "Resuming")
    assert abs(datetime.now(UTC) - given.state_details.scheduled_time) < timedelta(minutes=1)


def test_only_what_would_be_queued_by_the_button_resume_is_suspended(place: Path) -> None:
    rows = [suspended(PAUSED, name) for name in ("one", "two", "elsewhere", "waits inside")]
    rows[3].state.state_details.pause_reschedule = False
    server: Any = Server(*rows, suspended(RUNNING))
    assert recovery.suspended(server) == {row.id: row for row in rows[:2]}
    assert [suspension.is_suspended(row) for row in rows] == [True, True, True, False]
    assert not suspension.is_suspended(suspended(RUNNING))


def test_how_far_a_run_got_and_that_it_was_cancelled(place: Path) -> None:
    assert recovery.reached("new") == "in no stage yet"
    records.set_progress("a", records.Progress(stage="train", step=1))
    records.set_progress("b", records.Progress(stage="select"))
    assert [recovery.reached(name) for name in "ab"] == ["in train, after update 1", "in select"]
    row = run(RUNNING)
    server: Any = Tasks(row)
    recovery.mark_cancelled(server, row.id)
    assert (row.state.type, row.state.message) == (StateType.CANCELLED, "cancelled")
    for kinds, after in (((CANCELLING, RUNNING), []), ((), []), ((RUNNING, PAUSED, CANCELLING), [PAUSED, CANCELLING])):
        history(server, row, *kinds)
        assert recovery.kinds_since_start(server, row.id) == after
        assert recovery.was_cancelled(server, row.id) == (CANCELLING in after)
    history(server, row, PENDING, CANCELLING)
    assert recovery.kinds_since_start(server, row.id) == [PENDING, CANCELLING], "it never ran"
