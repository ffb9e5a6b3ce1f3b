"""`arc worker`: recovers from an earlier crash, then executes queued runs on this machine.

It extends Prefect's process worker: every flow run executes in the worktree of its frozen code, and a run that dies is
resumed or closed.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import shlex
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

import anyio
import httpx
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from flows.cluster import owners, settings, share
from flows.queue import admission, deployment, flow_runs, other_workers
from flows.runs import calm_log, places, processes, records, snapshots
from flows.runs.places import FlowError, one_line
from flows.runs.request import parse
from flows.worker import after_run, recovery, refusal, server, watch
from flows.worker.hold import Hold
from flows.worker.watch import alone
from tasks.files.live import RUN_VARIABLE
from tasks.servers import prefect_server

T = TypeVar("T")
ASKED_AGAIN, ASK_AGAIN_SECONDS = 2, (0.1, 0.4)
"""How often the queue is asked again in one poll, at most, and the range of the random wait before it."""
_admitted: list[str] = []
"""Lines of the last admission."""


class Worker(ProcessWorker):
    """Executes flow runs in their worktrees. Keeps Prefect's `type`, so that any tool can queue for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hold = Hold()
        self.started: set[str] = set()
        """Ids of runs that this worker executes or closes."""
        self.suspended: set[UUID] = set()
        """Ids of the suspended runs of this clone."""

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "arc-process"

    async def get_and_submit_flow_runs(self) -> list[Any]:
        """Admit runs that were queued in the UI, then poll the queue if there is a free slot."""
        try:
            if await asyncio.to_thread(_held, self):
                return []
            await asyncio.to_thread(_admit)
        except Exception as error:  # Git failed, or the server is away: the next poll tries again.
            print(f"admitting: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
            return []
        return await _while_away("polling", super().get_and_submit_flow_runs) or [] if self._free() else []

    async def _sync_and_initialize(self) -> None:
        """Tell the server that this worker lives."""
        await _while_away("heartbeat", super()._sync_and_initialize)

    def _free(self) -> int:
        return int(self._limiter.available_tokens) if self._limiter else 1

    async def _get_scheduled_flow_runs(self) -> list[Any]:
        """The waiting runs in order; asked for again if the server left out the first for another worker's request."""
        rows: list[Any] = await super()._get_scheduled_flow_runs()
        for _ in range(ASKED_AGAIN):
            if not rows or not await asyncio.to_thread(other_workers.passed_over, rows[0].flow_run, self._work_queues):
                break
            await asyncio.sleep(random.uniform(*ASK_AGAIN_SECONDS))
            rows = await super()._get_scheduled_flow_runs()
        return rows

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[Any]:
        """Submit what is ours, as far as slots are free; whatever else stands before it fails with the reason."""
        # What somebody resumes or retries while it still ends is taken then: Prefect would end this worker (3.8.8).
        submitted = {*self.started, *map(str, self._submitting_flow_run_ids)}
        new = [row for row in flow_run_response if str(row.flow_run.id) not in submitted]
        try:
            template = self.work_pool.base_job_template
            chosen = await asyncio.to_thread(refusal.choose, [row.flow_run for row in new], template, self._free())
        except Exception as error:  # As above.
            print(f"checking: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
            return []
        return await super()._submit_scheduled_flow_runs([row for row in new if row.flow_run.id in chosen])

    async def run(
        self,
        flow_run: Any,
        configuration: ProcessJobConfiguration,
        task_status: "anyio.abc.TaskStatus[int] | None" = None,
    ) -> ProcessWorkerResult:
        """Create the worktree, run the flow there, and end the processes that it leaves."""
        run = str(flow_run.id)
        commit = admission.commit_of(flow_run)
        if commit is None:
            [snapshot] = await asyncio.to_thread(snapshots.freeze, [parse(flow_run.parameters)], places.home())
            commit = snapshot.commit
        worktree = await asyncio.to_thread(snapshots.create_worktree, commit, run)
        shared = await asyncio.to_thread(share.variables)
        configuration.working_dir = worktree
        # Built here, not taken from the server: it decides what is executed.
        ours = {name: text for name, text in configuration.env.items() if name.startswith("PREFECT__")}
        chosen = {
            "PREFECT__FLOW_ENTRYPOINT": deployment.ENTRYPOINT,
            admission.COMMIT: commit,
            RUN_VARIABLE: run,
        }
        configuration.env = {**os.environ, **ours, **places.environment(), **chosen, **shared}
        # To a file, not a pipe to this process: the run must survive a crash of the worker.
        engine = f"exec {shlex.join(share.engine('prefect.engine'))} >> {shlex.quote(str(log_of(run)))} 2>&1"
        configuration.command = shlex.join(["sh", "-c", engine])
        # The code is there already: Prefect must not fetch it from elsewhere.
        configuration._command_configured = True
        self.started.add(run)
        result = await super().run(flow_run, configuration, cast("Any", _PidRecorder(run, task_status)))
        await asyncio.to_thread(processes.end, run)
        share.mark(run)
        if not await asyncio.to_thread(other_workers.still_ours, run):
            return ProcessWorkerResult(identifier=result.identifier, status_code=0)  # Its state is another's business.
        return result

    async def _submit_run_and_capture_errors(self, flow_run: Any, task_status: Any = None) -> Any:
        result = await super()._submit_run_and_capture_errors(flow_run, task_status)
        await asyncio.to_thread(alone, flow_run.id, _after, flow_run.id)
        self.started.discard(str(flow_run.id))
        return result


async def _while_away(what: str, call: Callable[[], Awaitable[T]]) -> T | None:
    """The result of a call; None while the server is away. Prefect ends its workers after some 25 minutes of that."""
    try:
        return await call()
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise
        print(f"{what}: {type(error).__name__}: {one_line(error)}; tried again", file=sys.stderr, flush=True)
        return None


def log_of(run: str) -> Path:
    """Log file with the output of the flow's process."""
    path = places.folder_of(run) / "flow.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class _PidRecorder:
    """Records the process of a run as soon as it exists; stands in for anyio's task status."""

    def __init__(self, run: str, inner: Any) -> None:
        self.run, self.inner = run, inner

    def started(self, pid: int) -> None:
        processes.record(self.run, pid)
        if self.inner:
            self.inner.started(pid)


def work() -> None:
    """Execute queued runs until SIGTERM or Ctrl-C. Raises FlowError if another worker is running here."""
    calm_log.install()
    with only_one():
        slots = deployment.slots()
        with deployment.client() as connection:
            deployment.ensure(connection, slots)
            for run, line in recovery.recover(connection):
                print(line, flush=True)
                alone(run, after_run.close, connection, run)
            waiting = flow_runs.runs(connection, *flow_runs.WAITING)
        for line in other_workers.start():
            print(line, flush=True)
        commits = [commit for run in waiting if (commit := admission.commit_of(run))]
        for line in alone("leftovers", snapshots.remove_unused, [str(run.id) for run in waiting], commits) or ():
            print(f"removed {line}", flush=True)
        page = server.address().removesuffix("/api")
        print(f"working: {slots} at once, {page}; the page asks once for `cat {server.secret_file()}`", flush=True)
        queues = deployment.served()
        worker = Worker(work_pool_name=deployment.POOL, name=owners.worker_name(), limit=slots, work_queues=queues)
        threading.Thread(target=watch.watch, args=(worker,), daemon=True).start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            asyncio.run(worker.start())
        except KeyboardInterrupt:
            print("stopping: running trainings save, and the next `arc worker` resumes them", flush=True)
            for name in worker.started:
                alone(name, records.mark_stopped, name)
        finally:
            for name in worker.started:
                alone(name, processes.end, name)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock of this checkout's worker; the kernel releases it with the process. Raises FlowError if held."""
    path = places.scratch() / "worker.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FlowError(f"another worker is running here already: {file.read().strip()}") from None
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        file.flush()
        yield


def _held(worker: Worker) -> bool:
    before = worker.hold.reason
    with deployment.kept_client() as connection:
        # In a cluster the pool and its waiting runs are those of other machines too.
        for line in worker.hold.check(connection) if settings.alone() else worker.hold.check_here():
            print(line, flush=True)
        if before and not worker.hold.reason:
            watch.resume(worker, connection, watch.CANCEL_SECONDS)  # Before any other run starts.
    return bool(worker.hold.reason)


def _after(run: UUID) -> None:
    if not other_workers.still_ours(str(run)):
        snapshots.remove(str(run))
        return
    with deployment.kept_client() as connection:
        try:
            connection.read_flow_run(run)
        except ObjectNotFound:  # Deleted on the page while it ran.
            snapshots.remove(str(run))
            return
        for line in after_run.after(connection, run):
            print(line, flush=True)


def _admit() -> None:
    if prefect_server.foreign():
        return  # The form is filled in at the server, and its code is that of the server's clone.
    with deployment.kept_client() as connection:
        lines = admission.admit(connection)
    for line in lines:
        if line not in _admitted:  # What cannot be frozen is tried at every poll.
            print(line, flush=True)
    _admitted[:] = lines
