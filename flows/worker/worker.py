"""`arc worker`: the one command of the machine with the GPU. Starts what is missing, recovers, and works.

It is Prefect's process worker, which here runs every flow run in the worktree of its frozen code, and looks after what
is left when one dies.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import anyio
import httpx
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from flows.queue import admission, deployment, flow_runs
from flows.runs import places, processes, snapshots
from flows.runs.places import FlowError
from flows.runs.request import parse
from flows.worker import ending, recovery, server

WATCH_SECONDS = 2.0
HEARD_SECONDS = 3.0
"""Within which Prefect ends a cancelled run, if it heard of it."""


class Worker(ProcessWorker):
    """Runs a flow run in its worktree. `type` stays that of Prefect's, so that any tool can queue for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.started: set[str] = set()
        """Runs whose processes may live."""

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "arc-process"

    async def get_and_submit_flow_runs(self) -> list[Any]:
        """Admit what was queued in the UI before anything is taken from the queue."""
        try:
            await asyncio.to_thread(_admit)
        except (FlowError, PrefectException, httpx.HTTPError) as error:
            # Of git, or of a run that was deleted meanwhile: what waits waits on, and is tried again.
            print(f"admitting: {error}", file=sys.stderr, flush=True)
            return []
        return await super().get_and_submit_flow_runs()

    async def run(
        self,
        flow_run: Any,
        configuration: ProcessJobConfiguration,
        task_status: "anyio.abc.TaskStatus[int] | None" = None,
    ) -> ProcessWorkerResult:
        """Lay out the worktree, run the flow there, and settle what it leaves."""
        run = str(flow_run.id)
        commit = admission.commit_of(flow_run)
        if commit is None:
            [snapshot] = await asyncio.to_thread(snapshots.freeze, [parse(flow_run.parameters)], places.home())
            commit = snapshot.commit
        worktree = await asyncio.to_thread(snapshots.lay_out, commit, run)
        configuration.working_dir = worktree
        configuration.env |= {**places.environment(), "ARC_COMMIT": commit, processes.VARIABLE: run}
        # Into a file, not through a pipe to this process: the run must not break when the worker does.
        engine = f"exec {shlex.quote(sys.executable)} -m prefect.engine >> {shlex.quote(str(log_of(run)))} 2>&1"
        configuration.command = shlex.join(["sh", "-c", engine])
        # The code is there already: no step of Prefect's own may fetch it from elsewhere.
        configuration._command_configured = True
        self.started.add(run)
        result = await super().run(flow_run, configuration, cast("Any", _Noting(run, task_status)))
        await asyncio.to_thread(processes.end, run)
        self.started.discard(run)
        return result

    async def _submit_run_and_capture_errors(self, flow_run: Any, task_status: Any = None) -> Any:
        result = await super()._submit_run_and_capture_errors(flow_run, task_status)
        try:
            await asyncio.to_thread(_after, flow_run.id)
        except Exception as error:  # The worker must outlive whatever one run leaves behind: `arc doctor` finds it.
            print(f"after run {flow_run.id}: {error!r}", file=sys.stderr, flush=True)
        return result


def log_of(run: str) -> Path:
    """What the flow's process prints, beside Prefect's logs."""
    path = places.folder_of(run) / "flow.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class _Noting:
    """Notes the process of a run as soon as it exists."""

    def __init__(self, run: str, inner: Any) -> None:
        self.run, self.inner = run, inner

    def started(self, pid: int) -> None:
        processes.note(self.run, pid)
        if self.inner:
            self.inner.started(pid)


def work() -> None:
    """Work until told to end. Raises FlowError when another worker works here."""
    with only_one():
        slots = deployment.slots()
        with deployment.client() as connection:
            deployment.ensure(connection, slots)
            for run, line in recovery.recover(connection):
                print(line, flush=True)
                ending.close(connection, run)
            waiting = flow_runs.runs(connection, StateType.SCHEDULED)
        commits = [commit for run in waiting if (commit := admission.commit_of(run))]
        for line in snapshots.clean([str(run.id) for run in waiting], commits):
            print(f"removed {line}", flush=True)
        print(f"working: {slots} at once, {server.address().removesuffix('/api')}", flush=True)
        worker = Worker(work_pool_name=deployment.POOL, name=f"worker-{os.getpid()}", limit=slots)
        threading.Thread(target=_watch, args=(worker,), daemon=True).start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            asyncio.run(worker.start())
        except KeyboardInterrupt:
            print("ending: what runs saves first, and is resumed by the next `arc worker`", flush=True)
        finally:
            for name in worker.started:
                processes.end(name)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock of this checkout's worker; the kernel drops it with the process."""
    path = places.scratch() / "worker.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FlowError(f"a worker works here already: {file.read().strip()}") from None
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        file.flush()
        yield


def _watch(worker: Worker) -> None:
    """Keep the server up, and end what was cancelled unheard."""
    told = ""
    while True:
        try:
            server.ensure()
            _cancel(worker)
            told = ""
        except (OSError, FlowError, PrefectException, httpx.HTTPError) as error:  # Tried again; each is told once.
            if repr(error) != told:
                print(f"watching: {error}", file=sys.stderr, flush=True)
                told = repr(error)
        time.sleep(WATCH_SECONDS)


def _cancel(worker: Worker) -> None:
    """Prefect's own watch for cancellations ends for good when its connection breaks (3.8.8); this one does not."""
    with deployment.client() as connection:
        for run in flow_runs.runs(connection, StateType.CANCELLING):
            if time.time() - run.state.timestamp.timestamp() < HEARD_SECONDS:
                continue
            if str(run.id) in worker.started:
                processes.end(str(run.id))  # Then `_after` marks it.
            else:
                print(recovery.settle(connection, run, "cancelled"), flush=True)
                ending.close(connection, run.id)


def _after(run: UUID) -> None:
    with deployment.client() as connection:
        for line in ending.after(connection, run):
            print(line, flush=True)


def _admit() -> None:
    with deployment.client() as connection:
        for line in admission.admit(connection):
            print(line, flush=True)
