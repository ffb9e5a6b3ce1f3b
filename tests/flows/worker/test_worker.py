"""What the worker does with its runs, at a server that is made up: which it ends, resumes, refuses and leaves alone."""

import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from flows.queue import admission, deployment, other_workers
from flows.runs import processes, snapshots
from flows.runs.places import FlowError
from flows.worker import after_run, refusal, watch, worker
from tasks.files.live import RUN_VARIABLE
from tests.support.made_up_server import made_up_worker, serve


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def test_one_worker_at_a_time_which_says_who_it_is(place: Path) -> None:
    with worker.only_one():
        said = json.loads((place / ".scratch" / "worker.lock").read_text())
        assert said["process"] == os.getpid()
        assert time.strptime(said["since"], "%Y-%m-%d %H:%M:%S")
        with pytest.raises(FlowError, match=rf'running here already: {{"process": {os.getpid()}'), worker.only_one():
            pass
    with worker.only_one():
        assert json.loads((place / ".scratch" / "worker.lock").read_text())["process"] == os.getpid()


def test_the_process_of_a_run_is_recorded_as_it_starts(place: Path) -> None:
    told = []
    worker._PidRecorder("a", SimpleNamespace(started=told.append)).started(os.getpid())
    worker._PidRecorder("b", None).started(os.getpid())
    assert told == [os.getpid()]
    assert {name: processes.recorded(name).pid for name in "ab"} == dict.fromkeys("ab", os.getpid())
    assert worker.log_of("new") == place / ".scratch" / "runs" / "new" / "flow.log"
    assert worker.log_of("new").parent.is_dir()


@pytest.mark.parametrize(
    ("error", "survived"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.HTTPStatusError("busy", request=httpx.Request("GET", "http://x"), response=httpx.Response(503)), True),
        (httpx.HTTPStatusError("who?", request=httpx.Request("GET", "http://x"), response=httpx.Response(401)), False),
    ],
)
def test_a_worker_outlives_a_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, error: Exception, survived: bool
) -> None:
    """Prefect's loops end a worker when a call fails often enough; none of these reaches them."""

    async def away(_: Any) -> None:
        raise error

    monkeypatch.setattr(ProcessWorker, "_sync_and_initialize", away)
    one: Any = object.__new__(worker.Worker)
    if survived:
        asyncio.run(one._sync_and_initialize())
        assert "heartbeat: " in capsys.readouterr().err
    else:
        with pytest.raises(httpx.HTTPStatusError):
            asyncio.run(one._sync_and_initialize())


@pytest.mark.parametrize("alone", [True, False])
def test_no_run_is_admitted_while_the_queue_is_held(monkeypatch: pytest.MonkeyPatch, alone: bool, capsys: Any) -> None:
    class Hold:
        reason = ""
        short = "no space"

        def look(self, where: str) -> list[str]:
            self.reason = self.short
            return [where]

        def check(self, _: Any) -> list[str]:
            return self.look("told")

        def check_here(self) -> list[str]:
            return self.look("here")

    serve(monkeypatch)
    resumed = []
    monkeypatch.setattr("flows.worker.worker.settings.alone", lambda: alone)
    monkeypatch.setattr(watch, "resume", lambda _, __, seconds: resumed.append(seconds))
    one = made_up_worker(hold=Hold())
    assert worker._held(one)
    assert not resumed
    one.hold.short = ""
    assert not worker._held(one)
    assert resumed == [watch.CANCEL_SECONDS], "before any other run"
    assert not worker._held(one)
    assert len(resumed) == 1
    assert set(capsys.readouterr().out.split()) == {"told" if alone else "here"}


def test_a_run_that_another_took_over_is_left_to_it(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    server, removed, handled = serve(monkeypatch), [], []
    server.runs = {UUID(int=7): object(), UUID(int=8): object()}
    monkeypatch.setattr(snapshots, "remove", removed.append)
    monkeypatch.setattr(after_run, "after", lambda _, row: handled.append(row) or ["a line"])
    for number, ours in ((7, True), (8, False)):
        monkeypatch.setattr(other_workers, "still_ours", lambda _, ours=ours: ours)
        worker._after(UUID(int=number))
    assert removed == [str(UUID(int=8))]
    assert handled == [UUID(int=7)]
    assert capsys.readouterr().out == "a line\n"


def test_the_worktree_of_a_run_that_was_deleted_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch)
    removed: list[str] = []
    monkeypatch.setattr(snapshots, "remove", removed.append)
    monkeypatch.setattr(after_run, "after", lambda *_: pytest.fail("of a run that is not there"))
    monkeypatch.setattr(other_workers, "still_ours", lambda _: True)
    worker._after(UUID(int=7))
    assert removed == [str(UUID(int=7))]


def test_runs_of_the_form_are_admitted_at_the_servers_own_clone_only(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    serve(monkeypatch)
    monkeypatch.setattr(admission, "admit", lambda _: ["admitted one"])
    for foreign in (True, False):
        monkeypatch.setattr("flows.worker.worker.prefect_server.foreign", lambda foreign=foreign: foreign)
        worker._admit()
    worker._admit()  # The same line again is not printed again.
    assert capsys.readouterr().out == "admitted one\n"


def bare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker without a server: what Prefect does itself is recorded."""
    one: Any = object.__new__(worker.Worker)
    one.hold, one.started = SimpleNamespace(reason=""), set()
    one._submitting_flow_run_ids = {"busy"}
    one._work_pool = SimpleNamespace(base_job_template={})
    one._limiter = SimpleNamespace(available_tokens=2)

    async def polled(_: Any) -> list[Any]:
        return ["polled"]

    async def submitted(_: Any, rows: list[Any]) -> list[Any]:
        return [row.flow_run.id for row in rows]

    monkeypatch.setattr(ProcessWorker, "get_and_submit_flow_runs", polled)
    monkeypatch.setattr(ProcessWorker, "_submit_scheduled_flow_runs", submitted)
    return one


def test_a_poll_admits_first_and_an_error_waits_for_the_next(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    one, admitted = bare(monkeypatch), []
    monkeypatch.setattr(worker, "_admit", lambda: admitted.append(1))
    for held, expected in ((True, []), (False, ["polled"])):
        monkeypatch.setattr(worker, "_held", lambda _, held=held: held)
        assert asyncio.run(one.get_and_submit_flow_runs()) == expected
    assert admitted == [1]
    one._limiter.available_tokens = 0
    assert asyncio.run(one.get_and_submit_flow_runs()) == [], "no slot is free"
    assert admitted == [1, 1]
    one._limiter = None
    assert asyncio.run(one.get_and_submit_flow_runs()) == ["polled"]
    monkeypatch.setattr(worker, "_admit", lambda: 1 / 0)
    assert asyncio.run(one.get_and_submit_flow_runs()) == []
    assert capsys.readouterr().err == "admitting: ZeroDivisionError: division by zero\n"


def test_only_what_is_chosen_is_submitted(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    one = bare(monkeypatch)
    rows = [SimpleNamespace(flow_run=SimpleNamespace(id=name)) for name in ("busy", "bad", "good")]
    asked = []
    monkeypatch.setattr(refusal, "choose", lambda runs, _, n: asked.append([*(row.id for row in runs), n]) or {"good"})
    assert asyncio.run(one._submit_scheduled_flow_runs(rows)) == ["good"]
    assert asked == [["bad", "good", 2]], "one that is being submitted is not asked again"
    monkeypatch.setattr(refusal, "choose", lambda *_: 1 / 0)
    assert asyncio.run(one._submit_scheduled_flow_runs(rows)) == []
    assert "checking: ZeroDivisionError" in capsys.readouterr().err


def test_the_server_is_asked_again_while_it_leaves_out_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    one, answers = bare(monkeypatch), iter("ab cdefgh")
    one._work_queues = {"b", "g"}
    slept: list[float] = []

    async def given(_: Any) -> list[Any]:
        name = next(answers)
        return [] if name == " " else [SimpleNamespace(flow_run=name), SimpleNamespace(flow_run="later")]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(ProcessWorker, "_get_scheduled_flow_runs", given)
    monkeypatch.setattr(other_workers, "passed_over", lambda first, served: first not in served)
    monkeypatch.setattr(asyncio, "sleep", sleep)

    def poll() -> list[str]:
        return [row.flow_run for row in asyncio.run(one._get_scheduled_flow_runs())]

    assert poll() == ["b", "later"]
    assert poll() == [], "nothing waits"
    assert len(slept) == 1
    assert poll() == ["e", "later"], "the third answer is taken as it is"
    assert all(0.1 <= seconds <= 0.4 for seconds in slept)
    assert poll() == ["g", "later"]
    assert len(slept) == 4


@pytest.mark.parametrize(("ours", "code"), [(True, 5), (False, 0)])
def test_a_run_executes_in_its_worktree_with_our_variables(
    place: Path, monkeypatch: pytest.MonkeyPatch, ours: bool, code: int
) -> None:
    one, ended, marked, seen = bare(monkeypatch), [], [], []

    async def execute(_: Any, flow_run: Any, configuration: Any, status: Any) -> ProcessWorkerResult:
        seen.append((set(one.started), status.run))
        return ProcessWorkerResult(identifier="p", status_code=5)

    monkeypatch.setattr(ProcessWorker, "run", execute)
    monkeypatch.setattr(admission, "commit_of", lambda _: "c" * 40)
    monkeypatch.setattr(snapshots, "create_worktree", lambda commit, name: place / commit / name)
    monkeypatch.setattr("flows.worker.worker.share.variables", lambda: {"ARC_SHARED": "yes"})
    monkeypatch.setattr("flows.worker.worker.share.mark", marked.append)
    monkeypatch.setattr(processes, "end", ended.append)
    monkeypatch.setattr(other_workers, "still_ours", lambda _: ours)
    env = {"PREFECT__FLOW_RUN_ID": "r", "PREFECT__FLOW_ENTRYPOINT": "theirs", "LD_PRELOAD": "theirs"}
    configuration = SimpleNamespace(env=env, working_dir=None, command="theirs", _command_configured=False)
    result = asyncio.run(one.run(SimpleNamespace(id="r"), configuration))
    assert (result.identifier, result.status_code) == ("p", code)
    assert configuration.working_dir == place / ("c" * 40) / "r"
    assert configuration.env["PREFECT__FLOW_ENTRYPOINT"] == deployment.ENTRYPOINT
    assert (configuration.env[RUN_VARIABLE], configuration.env["ARC_SHARED"]) == ("r", "yes")
    assert (configuration.env["PREFECT__FLOW_RUN_ID"], configuration.env[admission.COMMIT]) == ("r", "c" * 40)
    assert configuration.env.get("LD_PRELOAD") == os.environ.get("LD_PRELOAD")
    assert configuration.command.startswith("sh -c ")
    assert str(worker.log_of("r")) in configuration.command
    assert configuration._command_configured
    assert seen == [({"r"}, "r")]
    assert ended == marked == ["r"]
