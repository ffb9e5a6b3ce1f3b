"""What a worker looks after between its polls: the server, cancelled, suspended and dead runs, the night's report."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from flows.cluster import owners
from flows.queue import deployment, flow_runs, other_workers
from flows.runs import processes
from flows.runs.places import one_line
from flows.worker import after_run, recovery, server

T = TypeVar("T")
CRASHED_SECONDS = 60.0
"""A run that crashed is resumed or closed within this time, unless that failed."""
RESUME_SECONDS = 10.0
"""Between two looks for such runs."""
WATCH_SECONDS = 2.0
CANCEL_SECONDS = 3.0
"""Prefect ends a cancelled run within this time, unless it missed the cancellation."""
_resuming = threading.Lock()
"""The poll resumes too, when the queue is no longer held: two at once would count one death of a run twice."""


def alone(subject: object, function: Callable[..., T], *arguments: Any) -> T | None:
    """Call a function on one run. An error is printed: the worker survives it, and `arc doctor` finds the remains."""
    try:
        return function(*arguments)
    except Exception as error:
        print(f"{subject}: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
        return None


def watch(worker: Any) -> None:
    """Restart a dead server, end cancelled runs that Prefect missed, and resume those that could not be resumed."""
    printed, others, resumed = "", other_workers.OtherWorkers(worker.started, recovery.settle), 0.0
    while True:
        try:
            others.reached(server.ensure)
            with deployment.kept_client() as connection:
                cancel(worker, connection)
                suspended = alone("suspended runs", after_run.suspend, connection, worker.started, worker.suspended)
                worker.suspended = worker.suspended if suspended is None else suspended
                for line in others.look():
                    print(line, flush=True)
                if not worker.hold.reason and time.monotonic() - resumed > RESUME_SECONDS:
                    resumed = time.monotonic()
                    alone("cancelled runs", end_cancelled, worker, connection)
                    resume(worker, connection, CRASHED_SECONDS)
            after_run.late_report()
            printed = ""
        except Exception as error:  # Tried again; printed once.
            if repr(error) != printed:
                print(f"watching server and cancellations: {one_line(error)}", file=sys.stderr, flush=True)
                printed = repr(error)
        time.sleep(WATCH_SECONDS)


def cancel(worker: Any, connection: SyncPrefectClient) -> None:
    """End cancelled runs that are still alive: Prefect's own watch ends for good when its connection breaks (3.8.8)."""
    for run in flow_runs.runs(connection, StateType.CANCELLING):
        if time.time() - run.state.timestamp.timestamp() < CANCEL_SECONDS:
            continue
        if str(run.id) in worker.started:
            alone(run.id, processes.end, str(run.id))  # Then the worker sets its state.
        elif not owners.here(run):
            continue
        elif line := alone(run.id, recovery.settle, connection, run, "cancelled"):
            print(line, flush=True)
            alone(run.id, after_run.close, connection, run.id)


def end_cancelled(worker: Any, connection: SyncPrefectClient) -> None:
    """End the processes of runs that were cancelled as waiting ones while this worker took them, or deleted since."""
    for name in list(worker.started):
        try:
            present = connection.read_flow_run(UUID(name)).state
        except ObjectNotFound:
            processes.end(name)
            continue
        if present and present.type == StateType.CANCELLED:
            processes.end(name)


def resume(worker: Any, connection: SyncPrefectClient, seconds: float) -> None:
    """Settle every dead run that still looks as if it lived or could be resumed, one call at a time."""
    with _resuming:
        _resume_crashed(worker, connection, seconds)
        _settle_unreported(worker, connection, seconds)


def _resume_crashed(worker: Any, connection: SyncPrefectClient, seconds: float) -> None:
    """Resume runs that crashed `seconds` ago and still are: on a full disk, nothing could be written about them."""
    for run in flow_runs.runs(connection, StateType.CRASHED):
        old = time.time() - run.state.timestamp.timestamp() > seconds
        if old and run.deployment_id and str(run.id) not in worker.started and owners.here(run):
            for line in alone(run.id, after_run.after, connection, run.id) or ():
                print(line, flush=True)


def _settle_unreported(worker: Any, connection: SyncPrefectClient, seconds: float) -> None:
    """Settle runs whose end the server never learned: Running for longer than `seconds`, and without a process."""
    ours = {*worker.started, *map(str, worker._submitting_flow_run_ids)}
    for run in flow_runs.runs(connection, StateType.RUNNING, StateType.PENDING):
        old = time.time() - run.state.timestamp.timestamp() > seconds
        if not (old and run.deployment_id and str(run.id) not in ours and owners.here(run)):
            continue
        if processes.living(str(run.id)):
            continue
        present = connection.read_flow_run(run.id).state
        if present is None or present.id != run.state.id:
            continue  # It has ended since it was listed.
        if settled := alone(run.id, recovery.settle, connection, run, "its end could not be reported"):
            print(settled, flush=True)
            alone(run.id, after_run.close, connection, run.id)
