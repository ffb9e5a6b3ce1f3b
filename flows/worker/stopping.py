"""`arc worker --stop`: ends the worker of this checkout, then the server, which outlives workers otherwise."""

import contextlib
import time
from collections.abc import Iterator

import psutil

from flows.runs import places, processes
from flows.runs.places import FlowError
from flows.worker import server
from tasks.machine import gpu_lock

WORKER_SECONDS = 2 * processes.GRACE_SECONDS
"""In which the trainings of a worker save, and it ends."""
SERVER_SECONDS = 30.0


def stop() -> Iterator[str]:
    """End worker and server; yields what was done. Raises FlowError if an `arc run` needs the server, or one stays."""
    if row := gpu_lock.holder(places.scratch() / "worker.lock"):
        end(psutil.Process(int(row["process"])), WORKER_SECONDS)
        yield f"the worker (process {row['process']}) has ended; the next one resumes its runs"
    else:
        yield "no worker is running"
    if not (server.answers() and server.ours()):
        yield "no server of this checkout is running"
        return
    if living := [path.name for path in (places.scratch() / "runs").glob("*") if processes.living(path.name)]:
        raise FlowError(f"an `arc run` is running (flow run {living[0]}) and reports to the server; end it first")
    if (process := server.listener()) is None:
        raise FlowError(f"the server at {server.address()} is of another user or machine; end it there")
    end(process, SERVER_SECONDS)
    yield f"the server (process {process.pid}) has ended"


def end(process: psutil.Process, seconds: float) -> None:
    """Send SIGTERM and wait. Raises FlowError if the process stays."""
    process.terminate()
    deadline = time.monotonic() + seconds
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise FlowError(f"process {process.pid} has not ended after {seconds:.0f} s: `kill -9 {process.pid}`")
            time.sleep(0.2)
