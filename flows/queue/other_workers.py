"""What a worker does because there are others: it takes over the runs of the dead, and lets go of those taken over."""

import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from flows.cluster import exchange, lease, owners, settings, share
from flows.queue import admission, deployment, flow_runs
from flows.runs import processes, snapshots
from flows.runs.places import FlowError, one_line
from tasks.servers import prefect_server

Settle = Callable[[SyncPrefectClient, Any, str], str]
"""Ends what is left of a dead run here and queues it again; returns a log line."""
LOOK_SECONDS = 5.0
"""Between two looks at the other workers."""
SHARE_SECONDS = 60.0
"""Between two attempts to share what could not be shared."""
FETCH_SECONDS = 30.0
"""Between two looks for a frozen commit that the git remote lacked."""
_next_fetch = 0.0
"""Time, as `time.monotonic` counts, before which no frozen commits are fetched."""
_reported_waiting: set[UUID] = set()
"""Runs whose reason to wait was printed, as of the last call of `frozen`."""


class OtherWorkers:
    """Looks at the other workers of the pool; does nothing where there are no others."""

    def __init__(self, started: Collection[str], settle: Settle) -> None:
        self.settle = settle
        self.started = started
        """Ids of the runs that this worker executes."""
        self.orphans = owners.Orphans(owners.worker_name())
        self.looked = self.shared = 0.0
        self.reported: set[str] = set()
        """Log lines about what could not be shared at the last attempt."""

    def reached(self, ensure: Callable[[], None]) -> None:
        """Ensure that the server answers; remember when it did not."""
        try:
            ensure()
        except BaseException:
            self.orphans.lost_contact()
            raise

    def look(self) -> Iterator[str]:
        """Resume orphans, end what others have taken over, share what is left. Yields log lines."""
        now = time.monotonic()
        if now - self.looked < LOOK_SECONDS or settings.alone():
            return
        self.looked = now
        if now - self.shared > SHARE_SECONDS:
            self.shared = now
            lines = set(share.try_all(wait=False))
            yield from sorted(lines - self.reported)
            self.reported = lines
        with deployment.kept_client() as connection:
            # A flow that ended with its worker may have told the server that it crashed.
            every = flow_runs.runs(connection, *flow_runs.ACTIVE, StateType.CRASHED)
            for run in every:
                active = run.state.type != StateType.CRASHED and str(run.id) in self.started
                if active and not owners.here(run) and not owners.starting(run):
                    yield f"{run.name}: {owners.owner(run)} has taken it over, so it ends here"
                    processes.end(str(run.id))
            queued = [run for run in every if run.deployment_id and str(run.id) not in self.started]
            living = owners.online(connection, deployment.POOL) if queued else set()
            for run in self.orphans.of(queued, living, now):
                yield self.settle(connection, run, f"its worker {owners.owner(run) or ''} sends no heartbeat")


def passed_over(first: Any, served: Collection[str]) -> bool:
    """Whether another run of the queues `served` should have come before `first`, the first that the server gave.

    On PostgreSQL, Prefect's server leaves out the runs that another worker's request has locked at that moment (3.8.8).
    """
    if settings.alone():
        return False
    with deployment.kept_client() as connection:
        until = first.next_scheduled_start_time
        own = flow_runs.first_due(connection, {"id": {"any_": [first.work_queue_id]}}, until)
        if own is None:
            return False  # It was taken meanwhile.
        priority = deployment.QUEUES.get(own.work_queue_name, max(deployment.QUEUES.values()))
        higher = [name for name in served if deployment.QUEUES.get(name, priority) < priority]
        now = datetime.now().astimezone()
        return own.id != first.id or bool(higher and flow_runs.first_due(connection, {"name": {"any_": higher}}, now))


def still_ours(run: str) -> bool:
    """Whether this clone still has the run, which it took: nobody took it over while the server was out of reach."""
    if settings.alone():
        return True
    with deployment.kept_client() as connection:
        return owners.here(connection.read_flow_run(UUID(run)))


def frozen(runs: Collection[Any]) -> tuple[set[str], set[UUID]]:
    """The frozen commits that are here, after those of `runs` were fetched; and the runs that must wait.

    A run waits while its commit is in no reach of this clone, since another worker may have it, and in a clone without
    the server also before it is frozen.
    """
    global _next_fetch
    here, away = snapshots.frozen_commits(), set[UUID]()
    if settings.alone():
        return here, away
    commits = {run.id: admission.commit_of(run) for run in runs}
    lacking = any(commit and commit not in here for commit in commits.values())
    if lacking and settings.joined() and time.monotonic() > _next_fetch:
        _next_fetch = time.monotonic() + FETCH_SECONDS
        try:
            exchange.fetch_frozen()
            _next_fetch = 0.0
        except FlowError as error:
            print(f"fetching frozen code: {one_line(error)}", flush=True)
        here = snapshots.frozen_commits()
        if any(commit and commit not in here for commit in commits.values()):
            _next_fetch = time.monotonic() + FETCH_SECONDS
    for run in runs:
        commit = commits[run.id]
        if commit is None and prefect_server.foreign():
            why = "it is not frozen yet, which the worker of the server's clone does"
        elif commit and admission.DIGEST.fullmatch(commit) and commit not in here:
            why = f"its frozen commit {commit[:8]} is not at the git remote; another worker may have it"
        else:
            continue
        away.add(run.id)
        if run.id not in _reported_waiting:
            print(f"{run.name}: waits: {why}", flush=True)
    _reported_waiting.clear()
    _reported_waiting.update(away)
    return here, away


def start() -> Iterator[str]:
    """What a worker of a cluster does first. Yields log lines."""
    if not settings.joined():
        return
    with deployment.client() as connection:
        if count := lease.forget_expired(connection):
            yield f"removed {count} leases on stages that dead machines left"
    try:
        exchange.forget_old_records()
    except FlowError as error:
        yield f"old records stay at the git remote: {one_line(error)}"
    yield f"{owners.machine()} shares code and results over the git remote {settings.read().remote}"
