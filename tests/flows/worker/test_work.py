"""What `arc worker` does from its start to its end, and its watch beside it; server, clock and Prefect are made up."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import StateType
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from flows.queue import admission, deployment, flow_runs, other_workers
from flows.runs import calm_log, processes, snapshots
from flows.runs.places import FlowError
from flows.worker import after_run, recovery, server, worker
from flows.worker import watch as watching
from tests.support.made_up_server import Server, run

A, B = UUID(int=10), UUID(int=11)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A place where `work` can start; what it does is noted in `done`, in order."""
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    one = SimpleNamespace(done=[], ends=KeyboardInterrupt(), server=Server(), waiting=[], home=tmp_path)

    def note(what: str, answer: Any = None) -> Any:
        return lambda *given, **named: one.done.append((what, *given, *named.items())) or answer

    class Made:
        started = ("first", "second")

        def __init__(self, **options: Any) -> None:
            one.done.append(("worker", options))

        async def start(self) -> None:
            one.lock = json.loads((tmp_path / ".scratch" / "worker.lock").read_text())["since"]
            one.handler = signal.getsignal(signal.SIGTERM)
            one.done.append(("start",))
            if one.ends:
                raise one.ends

    def thread(target: Any, args: Any, daemon: bool) -> Any:
        one.thread = (target, [type(arg) for arg in args], daemon)
        return SimpleNamespace(start=note("watch"))

    def close(_: Any, row: UUID) -> None:
        one.done.append(("close", row))
        if row == A:
            raise KeyError("gone")

    monkeypatch.setattr(calm_log, "install", note("calm"))
    monkeypatch.setattr(deployment, "slots", lambda: 3)
    monkeypatch.setattr(deployment, "client", lambda: one.server)
    monkeypatch.setattr(deployment, "ensure", lambda connection, slots: note("ensure")(connection is one.server, slots))
    monkeypatch.setattr(deployment, "served", lambda: ["high", "cpu-high"])
    monkeypatch.setattr(recovery, "recover", lambda _: [(A, "a died"), (B, "b died")])
    monkeypatch.setattr(after_run, "close", close)
    monkeypatch.setattr(flow_runs, "runs", lambda _, *kinds: note("asked", one.waiting)(*kinds))
    monkeypatch.setattr(other_workers, "start", lambda: ["shares one", "shares two"])
    monkeypatch.setattr(admission, "commit_of", lambda row: row.commit)
    monkeypatch.setattr(snapshots, "remove_unused", note("tidy", ["worktree x", "records y"]))
    monkeypatch.setattr(server, "address", lambda: "http://here:4/api")
    monkeypatch.setattr(server, "secret_file", lambda: "/the/secret")
    monkeypatch.setattr("flows.worker.worker.owners.worker_name", lambda: "me-7")
    monkeypatch.setattr(worker, "Worker", Made)
    monkeypatch.setattr(worker, "threading", SimpleNamespace(Thread=thread))
    monkeypatch.setattr(processes, "end", note("end"))
    before = signal.getsignal(signal.SIGTERM)
    yield one
    signal.signal(signal.SIGTERM, before)


WORKING = "working: 3 at once, http://here:4; the page asks once for `cat /the/secret`\n"
STOPPING = "stopping: running trainings save, and the next `arc worker` resumes them\n"


def test_a_worker_recovers_and_tidies_before_it_works_and_ends_what_is_left(started: Any, capsys: Any) -> None:
    started.waiting = [run(StateType.SCHEDULED, commit=commit) for commit in ("c", None, "d")]
    worker.work()
    ids = [str(row.id) for row in started.waiting]
    options = {"work_pool_name": "gpu", "name": "me-7", "limit": 3, "work_queues": ["high", "cpu-high"]}
    assert started.done == [
        ("calm",),
        ("ensure", True, 3),
        ("close", A),
        ("close", B),
        ("asked", StateType.SCHEDULED, StateType.PAUSED),
        ("tidy", ids, ["c", "d"]),
        ("worker", options),
        ("watch",),
        ("start",),
        ("end", "first"),
        ("end", "second"),
    ]
    said = capsys.readouterr()
    lines = "a died\nb died\nshares one\nshares two\nremoved worktree x\nremoved records y\n"
    assert said.out == lines + WORKING + STOPPING
    assert said.err == f"{A}: KeyError: 'gone'\n"
    assert started.thread == (watching.watch, [worker.Worker], True)
    assert started.handler is signal.default_int_handler, "SIGTERM ends it as Ctrl-C does"
    with worker.only_one():
        assert started.lock, "it held the lock of this checkout while it worked"


def test_what_cannot_be_tidied_stays_and_an_error_of_prefect_ends_the_runs(
    started: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any) -> list[str]:
        raise OSError("no space")

    monkeypatch.setattr(snapshots, "remove_unused", full)
    started.ends = RuntimeError("the pool was deleted")
    with pytest.raises(RuntimeError, match="the pool was deleted"):
        worker.work()
    said = capsys.readouterr()
    assert said.out == f"a died\nb died\nshares one\nshares two\n{WORKING}"
    assert said.err == f"{A}: KeyError: 'gone'\nleftovers: OSError: no space\n"
    assert started.done[-3:] == [("start",), ("end", "first"), ("end", "second")]


def test_a_second_worker_does_nothing(started: Any) -> None:
    with worker.only_one(), pytest.raises(FlowError, match="another worker is running here already"):
        worker.work()
    assert started.done == [("calm",)]


class Over(BaseException):
    """Ends the watch of a test."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The watch of a worker; `ticks` are the times of its rounds, and what fails in each."""
    one = SimpleNamespace(done=[], now=0.0, fails=None, slept=[])
    one.worker = SimpleNamespace(started={"r"}, suspended={A}, hold=SimpleNamespace(reason=""))

    class Others:
        def __init__(self, *given: Any) -> None:
            one.others = given

        def reached(self, ensure: Any) -> None:
            assert ensure is server.ensure
            if one.fails:
                raise one.fails

        def look(self) -> list[str]:
            return [f"look {one.now}", "and more"]

    def suspend(_: Any, started: set[str], before: set[UUID]) -> set[UUID]:
        one.done.append(("suspend", started, before))
        return {B}

    def rounds(*ticks: Any) -> None:
        left = list(ticks)

        def sleep(seconds: float) -> None:
            one.slept.append(seconds)
            if not left:
                raise Over
            one.now, one.fails = left.pop(0)

        one.now, one.fails = left.pop(0)
        monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: one.now, sleep=sleep))
        with pytest.raises(Over):
            watching.watch(one.worker)

    made = Server()
    monkeypatch.setattr(other_workers, "OtherWorkers", Others)
    monkeypatch.setattr(deployment, "kept_client", lambda: made)
    monkeypatch.setattr(watching, "cancel", lambda *given: one.done.append(("cancel", *given)))
    monkeypatch.setattr(watching, "resume", lambda *given: one.done.append(("resume", one.now, *given)))
    monkeypatch.setattr(after_run, "suspend", suspend)
    monkeypatch.setattr(after_run, "late_report", lambda: one.done.append(("report",)))
    one.rounds, one.server = rounds, made
    return one


def test_the_watch_does_all_its_rounds_and_resumes_every_ten_seconds(watch: Any, capsys: Any) -> None:
    watch.rounds((50.0, None), (60.0, None), (60.1, None))
    assert watch.others == (watch.worker.started, recovery.settle)
    cancel, report = ("cancel", watch.worker, watch.server), ("report",)
    assert watch.done == [
        *(cancel, ("suspend", {"r"}, {A}), ("resume", 50.0, watch.worker, watch.server, 60.0), report),
        *(cancel, ("suspend", {"r"}, {B}), report),
        *(cancel, ("suspend", {"r"}, {B}), ("resume", 60.1, watch.worker, watch.server, 60.0), report),
    ]
    assert watch.slept == [2.0, 2.0, 2.0]
    assert capsys.readouterr().out == "".join(f"look {now}\nand more\n" for now in (50.0, 60.0, 60.1))


def test_a_held_queue_resumes_nothing(watch: Any) -> None:
    watch.worker.hold.reason = "no space"
    watch.rounds((50.0, None), (90.0, None))
    assert [row[0] for row in watch.done] == ["cancel", "suspend", "report"] * 2


def test_an_error_of_the_watch_is_printed_once_until_it_is_over(watch: Any, capsys: Any) -> None:
    away, other = OSError("away"), OSError("other")
    watch.rounds(*((float(i), error) for i, error in enumerate((away, away, other, None, other))))
    said = capsys.readouterr()
    line = "watching server and cancellations: "
    assert said.err == f"{line}away\n{line}other\n{line}other\n"
    assert [row[0] for row in watch.done] == ["cancel", "suspend", "report"]
    assert said.out == "look 3.0\nand more\n"


def test_a_worker_takes_runs_of_its_own_kind_of_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "Hold", lambda: "hold")  # The real one asks DVC for its cache.
    one: Any = worker.Worker(work_pool_name="gpu", name="me", limit=2)
    assert (one.started, one.suspended, one.hold) == (set(), set(), "hold")
    assert (one._work_pool_name, one.name) == ("gpu", "me")
    assert (one.type, worker.Worker.__dispatch_key__()) == ("process", "arc-process")


def test_a_run_without_a_frozen_commit_is_frozen_when_it_starts(
    started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    one: Any = object.__new__(worker.Worker)
    one.started, made = set(), []

    async def execute(_: Any, flow_run: Any, configuration: Any, status: Any) -> ProcessWorkerResult:
        status.started(0)
        return ProcessWorkerResult(identifier="p", status_code=0)

    monkeypatch.setattr(ProcessWorker, "run", execute)
    monkeypatch.setattr(worker, "parse", lambda parameters: ("parsed", parameters))
    monkeypatch.setattr(snapshots, "freeze", lambda *given: made.append(given) or [SimpleNamespace(commit="f" * 40)])
    monkeypatch.setattr(snapshots, "create_worktree", lambda *given: made.append(given) or tmp_path)
    monkeypatch.setattr("flows.worker.worker.share.variables", dict)
    monkeypatch.setattr("flows.worker.worker.share.mark", lambda _: None)
    monkeypatch.setattr(processes, "end", lambda _: 0)
    monkeypatch.setattr(other_workers, "still_ours", lambda _: True)
    configuration: Any = SimpleNamespace(env={}, _command_configured=False)
    row = SimpleNamespace(id="r", job_variables=None, parameters={"request": 5})
    asyncio.run(one.run(row, configuration))
    assert made == [([("parsed", {"request": 5})], tmp_path), ("f" * 40, "r")]
    assert configuration.env[admission.COMMIT] == "f" * 40


def test_after_a_run_its_end_is_handled_and_it_is_ours_no_longer(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    one: Any = object.__new__(worker.Worker)
    one.started, handled = {str(A), str(B)}, []

    async def submit(_: Any, flow_run: Any, task_status: Any = None) -> Any:
        return flow_run.name, task_status

    def after(row: UUID) -> None:
        handled.append((row, set(one.started)))
        raise OSError("full")

    monkeypatch.setattr(ProcessWorker, "_submit_run_and_capture_errors", submit)
    monkeypatch.setattr(worker, "_after", after)
    assert asyncio.run(one._submit_run_and_capture_errors(SimpleNamespace(id=A, name="a"), "status")) == ("a", "status")
    assert handled == [(A, {str(A), str(B)})], "until then the watch does not resume it"
    assert one.started == {str(B)}
    assert capsys.readouterr().err == f"{A}: OSError: full\n"
