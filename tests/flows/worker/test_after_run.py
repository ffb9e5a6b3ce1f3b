"""What happens to a run that has ended, and to the worker and the server that are told to end; all made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from flows.queue import admission, deployment, flow_runs
from flows.runs import interruption, snapshots
from flows.worker import after_run, night_report, night_text, notification, recovery
from tests.support.made_up_server import Server, run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """What `close` and `after` have done, by what."""
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    done: dict[str, list[Any]] = {}

    def note(what: str, answer: Any = None) -> Any:
        return lambda *given: done.setdefault(what, []).append(given) or answer

    monkeypatch.setattr(recovery, "end_tasks", note("tasks"))
    monkeypatch.setattr(interruption, "publish", note("mlflow"))
    monkeypatch.setattr("flows.worker.after_run.share.mark", note("mark"))
    monkeypatch.setattr("flows.worker.after_run.share.try_all", lambda: ["shared"])
    monkeypatch.setattr("flows.worker.after_run.share.receive", lambda: ["received"])
    monkeypatch.setattr(after_run, "report", note("report"))
    monkeypatch.setattr(notification, "send", note("sent"))
    monkeypatch.setattr(snapshots, "remove", note("removed"))
    monkeypatch.setattr(snapshots, "release", note("released"))
    monkeypatch.setattr("flows.worker.after_run.exchange.release", note("released there"))
    monkeypatch.setattr(admission, "commit_of", lambda row: row.commit)
    monkeypatch.setattr(admission, "tag_of", lambda commit: commit[:4])
    monkeypatch.setattr(flow_runs, "runs", lambda connection, *kinds, tag="": connection.of(*kinds))
    return done


def test_a_failed_run_is_told_to_mlflow_and_its_code_stays(told: dict[str, list[Any]], capsys: Any) -> None:
    row = run(StateType.FAILED, "a run", message="train: NaN", commit="c")
    after_run.close(Server(row), row.id)
    [(_, worktree, status, why)] = told["mlflow"]
    assert (worktree.name, status, why) == (str(row.id), "FAILED", "train: NaN")
    assert told["sent"] == [("a run: Failed", "train: NaN")]
    assert told["removed"] == [(str(row.id),)]
    assert "tasks" in told
    assert "released" not in told
    assert capsys.readouterr().out == "shared\n"


@pytest.mark.parametrize(
    ("others", "joined", "released"),
    [([], False, ["released"]), ([], True, ["released", "released there"]), (["c"], True, [])],
)
def test_the_frozen_code_of_a_completed_run_goes_unless_another_needs_it(
    told: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch, others: list[str], joined: bool, released: list[str]
) -> None:
    row = run(StateType.COMPLETED, commit="c")
    waiting = [run(StateType.SCHEDULED, commit=commit) for commit in others]
    monkeypatch.setattr("flows.worker.after_run.settings.joined", lambda: joined)
    after_run.close(Server(row, *waiting), row.id)
    assert [what for what in told if what.startswith("released")] == released
    assert "mlflow" not in told
    assert told["sent"] == [("run: Completed", "killed")]


def test_a_run_that_will_go_on_is_not_closed(told: dict[str, list[Any]]) -> None:
    row = run(StateType.SCHEDULED, commit="c")
    after_run.close(Server(row), row.id)
    assert not told


@pytest.mark.parametrize(
    ("kind", "cancelled", "does"),
    [
        (StateType.CRASHED, False, ["resumed"]),
        (StateType.CRASHED, True, ["cancelled"]),
        (StateType.RUNNING, True, ["cancelled"]),
        (StateType.CANCELLED, True, []),
        (StateType.COMPLETED, True, []),
        (StateType.FAILED, False, []),
    ],
)
def test_a_crash_is_resumed_unless_it_was_a_cancellation(
    told: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch, kind: StateType, cancelled: bool, does: list[str]
) -> None:
    row, done = run(kind, "a run", commit=None), []
    monkeypatch.setattr(recovery, "was_cancelled", lambda *_: cancelled)
    monkeypatch.setattr(recovery, "settle_suspended", lambda *_: None, raising=False)
    monkeypatch.setattr(recovery, "mark_cancelled", lambda *_: done.append("cancelled"))
    monkeypatch.setattr(recovery, "resume", lambda _, id_, name, why: done.append("resumed") or f"{name}: {why}")
    assert after_run.after(Server(row), row.id) == (["a run: killed"] if "resumed" in does else [])
    assert done == does


def test_a_cancellation_before_the_last_start_does_not_count() -> None:
    row = run(StateType.RUNNING)
    server = Server(row)
    for kinds, cancelled in (
        ((StateType.RUNNING, StateType.CANCELLING), True),
        ((StateType.CANCELLING, StateType.RUNNING, StateType.CRASHED), False),
        ((StateType.CANCELLING,), True),
        ((), False),
    ):
        server.states[row.id] = [run(kind, age=10.0 - i).state for i, kind in enumerate(kinds)][::-1]
        assert recovery.was_cancelled(server, row.id) == cancelled


def test_the_report_of_the_night_waits_a_minute_and_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    published, clock = [], SimpleNamespace(now=1000.0)
    monkeypatch.setattr(after_run, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(after_run, "_next_report", 0.0)
    monkeypatch.setattr(after_run, "_due", False)
    monkeypatch.setattr(night_report, "rows", lambda *_: [])
    monkeypatch.setattr(night_text, "publish", lambda *_: published.append(clock.now))
    monkeypatch.setattr(deployment, "client", Server)
    for clock.now in (1000.0, 1059.0, 1059.5):
        after_run.report(Server())
        after_run.late_report()
    clock.now = 1060.0
    after_run.late_report()
    clock.now = 1200.0
    after_run.late_report()
    assert published == [1000.0, 1060.0]
