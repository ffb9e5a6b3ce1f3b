"""What a worker does between its polls, at a server that is made up: which runs it ends, settles and leaves alone."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType

from flows.queue import flow_runs
from flows.runs import processes
from flows.worker import after_run, recovery, watch
from tests.support.made_up_server import made_up_worker, run, serve, state


def test_an_error_about_one_run_is_printed_and_survived(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: int) -> int:
        raise KeyError("x")

    assert watch.alone("run 1", broken, 3) is None
    assert capsys.readouterr().err == "run 1: KeyError: 'x'\n"
    assert watch.alone("run 1", abs, -3) == 3


def test_cancelled_runs_that_prefect_missed_are_ended(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    kinds = {"fresh": 2.5, "broken": 3.5, "ours": 3.5, "elsewhere": 3.5, "left": 3.5}
    runs = {name: run(StateType.CANCELLING, name, age=age) for name, age in kinds.items()}
    server = serve(monkeypatch, *runs.values())
    ended, settled, closed = [], [], []
    monkeypatch.setattr(processes, "end", ended.append)

    def settle(_: Any, row: Any, why: str) -> str:
        if row.name == "broken":
            raise OSError("full")
        settled.append((row.name, why))
        return f"{row.name} ended"

    monkeypatch.setattr(recovery, "settle", settle)
    monkeypatch.setattr(after_run, "close", lambda _, row: closed.append(row))
    one = made_up_worker()
    one.started = {str(runs["ours"].id)}
    watch.cancel(one, server)
    assert ended == [str(runs["ours"].id)]
    assert settled == [("left", "cancelled")]
    assert closed == [runs["left"].id]
    assert capsys.readouterr() == ("left ended\n", f"{runs['broken'].id}: OSError: full\n")


def test_runs_that_stayed_crashed_are_resumed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ages = {"young": 50.0, "old": 70.0, "elsewhere": 70.0, "ours": 70.0}
    runs = {name: run(StateType.CRASHED, name, age=age) for name, age in ages.items()}
    alone = run(StateType.CRASHED, "by hand", deployment=None, age=70.0)
    server = serve(monkeypatch, *runs.values(), alone)
    monkeypatch.setattr(after_run, "after", lambda _, row: [f"resumed {row}"])
    one = made_up_worker()
    one.started = {str(runs["ours"].id)}
    watch.resume(one, server, 60.0)
    assert capsys.readouterr().out == f"resumed {runs['old'].id}\n"


def test_runs_whose_end_the_server_never_learned_are_settled(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    names = ("dead", "pending", "ours", "submitted", "elsewhere", "lives", "ended", "young")
    kinds = {name: StateType.PENDING if name == "pending" else StateType.RUNNING for name in names}
    runs = {name: run(kind, name, age=50.0 if name == "young" else 70.0) for name, kind in kinds.items()}
    server = serve(monkeypatch, *runs.values(), run(StateType.RUNNING, "by hand", deployment=None, age=70.0))
    # It ends between the list and the look at it.
    listed = [*runs.values(), *(row for row in server.runs.values() if row.name == "by hand")]
    before = [SimpleNamespace(**vars(row)) for row in listed]
    monkeypatch.setattr(flow_runs, "runs", lambda _, *kinds, **__: [row for row in before if row.state.type in kinds])
    runs["ended"].state = state(StateType.COMPLETED)
    monkeypatch.setattr(processes, "living", lambda name: [1] if name == str(runs["lives"].id) else [])
    monkeypatch.setattr(recovery, "settle", lambda _, row, why: f"{row.name}: {why}")
    closed: list[UUID] = []
    monkeypatch.setattr(after_run, "close", lambda _, row: closed.append(row))
    one = made_up_worker()
    one.started, one._submitting_flow_run_ids = {str(runs["ours"].id)}, {runs["submitted"].id}
    watch.resume(one, server, 60.0)
    why = "its end could not be reported"
    assert capsys.readouterr().out == f"dead: {why}\npending: {why}\n"
    assert closed == [runs["dead"].id, runs["pending"].id]


def test_a_run_that_was_cancelled_while_it_was_taken_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled, runs = run(StateType.CANCELLED), run(StateType.RUNNING)
    server = serve(monkeypatch, cancelled, runs)
    ended: list[str] = []
    monkeypatch.setattr(processes, "end", ended.append)
    one = made_up_worker()
    one.started = {str(cancelled.id), str(runs.id)}
    watch.end_cancelled(one, server)
    assert ended == [str(cancelled.id)]


def test_a_run_that_was_deleted_while_it_ran_is_ended_and_hides_no_cancelled_one(monkeypatch: pytest.MonkeyPatch):
    deleted, cancelled = run(StateType.RUNNING), run(StateType.CANCELLED)
    server = serve(monkeypatch, cancelled)
    ended: list[str] = []
    monkeypatch.setattr(processes, "end", ended.append)
    one = made_up_worker()
    one.started = dict.fromkeys([str(deleted.id), str(cancelled.id)])
    watch.end_cancelled(one, server)
    assert ended == [str(deleted.id), str(cancelled.id)]
