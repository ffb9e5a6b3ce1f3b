"""What happens to a run that has ended, and to the worker and the server that are told to end; all made up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.blocks.core import Block
from prefect.client.schemas.objects import StateType

from flows.queue import admission, deployment, flow_runs, suspension
from flows.runs import interruption, processes, snapshots
from flows.worker import after_run, night_report, night_text, recovery
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
    monkeypatch.setattr(after_run, "notify", note("sent"))
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
    monkeypatch.setattr(deployment, "kept_client", Server)
    for clock.now in (1000.0, 1059.0, 1059.5):
        after_run.report(Server())
        after_run.late_report()
    clock.now = 1060.0
    after_run.late_report()
    clock.now = 1200.0
    after_run.late_report()
    assert published == [1000.0, 1060.0]


@pytest.mark.parametrize(
    ("kind", "status"),
    [(StateType.CANCELLED, "KILLED"), (StateType.FAILED, "FAILED"), (StateType.CRASHED, ""), (StateType.COMPLETED, "")],
)
def test_the_end_of_a_run_is_told_before_its_worktree_goes(
    told: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch, kind: StateType, status: str
) -> None:
    row, asked = run(kind, commit="abcdef"), []
    monkeypatch.setattr(
        flow_runs, "runs", lambda _, *kinds, tag: asked.append((kinds, tag)) or [SimpleNamespace(commit="abcde")]
    )
    monkeypatch.setattr("flows.worker.after_run.settings.joined", lambda: False)
    server = Server(row)
    after_run.close(server, row.id)
    ends = [*(["tasks", "mlflow"] if status else []), "mark", "report", "sent", "removed"]
    assert list(told) == [*ends, *(["released"] if kind == StateType.COMPLETED else [])]
    assert told["report"] == [(server,)]
    assert told["mark"] == told["removed"] == [(str(row.id),)]
    waiting = (StateType.SCHEDULED, StateType.PAUSED, StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
    assert asked == ([(waiting, "abcd")] if kind == StateType.COMPLETED else [])
    if status:
        [(connection, name, state)] = told["tasks"]
        assert (connection, name, state.type, state.message) == (server, row.id, StateType.CRASHED, "killed")
        assert [given[2:] for given in told["mlflow"]] == [(status, "killed")]


def test_a_completed_run_that_was_never_frozen_releases_nothing(told: dict[str, list[Any]]) -> None:
    row = run(StateType.COMPLETED, commit=None)
    after_run.close(Server(row), row.id)
    assert list(told) == ["mark", "report", "sent", "removed"]


def test_a_run_that_saved_because_it_was_suspended_stays_so(
    told: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = run(StateType.CRASHED, "a run", message="killed", commit=None)
    monkeypatch.setattr(recovery, "was_cancelled", lambda *_: False)
    monkeypatch.setattr(recovery, "settle_suspended", lambda _, given: f"{given.name} is suspended")
    monkeypatch.setattr(recovery, "resume", lambda *_: "resumed")
    assert after_run.after(Server(row), row.id) == ["a run is suspended"]
    monkeypatch.setattr(recovery, "settle_suspended", lambda *_: "")
    monkeypatch.setattr(recovery, "resume", lambda _, *given: str(given))
    assert after_run.after(Server(row), row.id) == [f"({row.id!r}, 'a run', 'killed')"]
    monkeypatch.setattr(recovery, "was_cancelled", lambda *_: True)
    assert after_run.after(Server(row), row.id) == []


def test_what_was_suspended_meanwhile_ends_and_what_is_so_no_longer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [run(StateType.PAUSED, name) for name in ("new", "before", "of another worker")]
    server, ended, kept, closed = Server(*rows), [], [], []
    gone = UUID(int=1)
    monkeypatch.setattr(recovery, "suspended", lambda _: {row.id: row for row in rows})
    monkeypatch.setattr(processes, "end", ended.append)
    monkeypatch.setattr(suspension, "keep", lambda *given: kept.append(given))
    monkeypatch.setattr(after_run, "close", lambda *given: closed.append(given))
    started = {str(row.id) for row in rows[:2]}
    assert after_run.suspend(server, started, {rows[1].id, gone}) == {row.id for row in rows}
    assert kept == [(server, rows[0], "it saves and ends, which takes at most 30 s")]
    assert ended == [str(rows[0].id)]
    assert closed == [(server, gone)]


def test_a_report_has_the_results_of_other_machines(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    made, asked = [], []
    monkeypatch.setattr(after_run, "_next_report", 0.0)
    monkeypatch.setattr(after_run, "_due", True)
    monkeypatch.setattr("flows.worker.after_run.share.receive", lambda: ["one", "two"])
    monkeypatch.setattr(night_report, "since", lambda hours: f"{hours} h ago")
    monkeypatch.setattr(night_report, "rows", lambda *given: asked.append(given) or ["a row"])
    monkeypatch.setattr(night_text, "publish", lambda *given: made.append(given))
    server = Server()
    after_run.report(server)
    assert asked == [(server, "16.0 h ago")]
    assert made == [(server, ["a row"])]
    assert capsys.readouterr().out == "one\ntwo\n"
    assert not after_run._due
    after_run.late_report()
    assert len(made) == 1


def test_a_block_of_prefect_is_notified_and_its_errors_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    said = []

    class Made:
        def notify(self, body: str, subject: str) -> None:
            said.append((body, subject))
            if body == "too long":
                raise ValueError("no")

    def load(name: str) -> Any:
        return {"slack/lab": Made(), "odd/lab": object()}[name]

    monkeypatch.setattr(Block, "load", load)
    for name in (None, "", "slack/lab"):
        if name is None:
            monkeypatch.delenv("ARC_NOTIFY", raising=False)
        else:
            monkeypatch.setenv("ARC_NOTIFY", name)
        after_run.notify("a run: Failed", "NaN")
    assert said == [("NaN", "a run: Failed")]
    assert capsys.readouterr().err == ""
    after_run.notify("s", "too long")
    monkeypatch.setenv("ARC_NOTIFY", "odd/lab")
    after_run.notify("s", "b")
    monkeypatch.setenv("ARC_NOTIFY", "none/lab")
    after_run.notify("s", "b")
    attribute = AttributeError("'object' object has no attribute 'notify'")
    assert capsys.readouterr().err.splitlines() == [
        "slack/lab (ARC_NOTIFY) could not be notified of 's': ValueError('no')",
        f"odd/lab (ARC_NOTIFY) could not be notified of 's': {attribute!r}",
        "none/lab (ARC_NOTIFY) could not be notified of 's': KeyError('none/lab')",
    ]
