"""Work after a run has ended: resume it or close it, update MLflow, notify, and remove its worktree."""

import os
import sys
import time
from collections.abc import Collection
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

from flows.cluster import exchange, settings, share
from flows.queue import admission, deployment, flow_runs, suspension
from flows.runs import interruption, places, processes, snapshots
from flows.worker import night_report, night_text, recovery

MLFLOW = {StateType.CANCELLED: "KILLED", StateType.FAILED: "FAILED"}
"""MLflow's status of a run that ended without a result."""
REPORT_SECONDS = 60.0
"""Between two reports of the night: each reads all runs of the night."""
_next_report = 0.0
_due = False


def after(connection: SyncPrefectClient, run: UUID) -> list[str]:
    """Resume or close a run whose processes have ended, whichever state Prefect gave it. Returns log lines."""
    flow_run = connection.read_flow_run(run)
    assert flow_run.state
    log = []
    if recovery.was_cancelled(connection, run):
        if flow_run.state.type not in (StateType.CANCELLED, StateType.COMPLETED):
            recovery.mark_cancelled(connection, run)
    elif line := recovery.settle_suspended(connection, flow_run):
        log.append(line)
    elif flow_run.state.type == StateType.CRASHED:
        log.append(recovery.resume(connection, run, flow_run.name, flow_run.state.message or "killed"))
    close(connection, run)
    return log


def suspend(connection: SyncPrefectClient, started: Collection[str], before: set[UUID]) -> set[UUID]:
    """End suspended runs that still compute, and close those that were cancelled while they were suspended.

    `started` are the runs that this worker executes, and `before` what the call before returned: the suspended runs.
    """
    suspended = recovery.suspended(connection)
    for run in suspended.values():
        if str(run.id) in started and run.id not in before:
            suspension.keep(connection, run, "it saves and ends, which takes at most 30 s")
            processes.end(str(run.id))  # Then `after` sets its state.
    for left in before - suspended.keys():
        close(connection, left)
    return set(suspended)


def close(connection: SyncPrefectClient, run: UUID) -> None:
    """Close a run that will not be resumed: end its tasks, record it in MLflow, notify, remove its worktree."""
    flow_run = connection.read_flow_run(run)
    assert flow_run.state
    kind, message = flow_run.state.type, flow_run.state.message or "killed"
    if kind not in night_report.ENDED:
        return  # It is resumed, now or by the user.
    if kind in MLFLOW:
        recovery.end_tasks(connection, run, Crashed(message=message))
        interruption.publish(str(run), places.worktree_of(str(run)), MLFLOW[kind], message)
    share.mark(str(run))
    for line in share.try_all():
        print(line, flush=True)
    report(connection)
    notify(f"{flow_run.name}: {flow_run.state.name}", message)
    snapshots.remove(str(run))
    if kind == StateType.COMPLETED and (commit := admission.commit_of(flow_run)):
        named = admission.tag_of(commit)
        active = flow_runs.runs(connection, *flow_runs.WAITING, *flow_runs.ACTIVE, tag=named)
        if commit not in map(admission.commit_of, active):
            snapshots.release(commit)
            if settings.joined():
                exchange.release(commit)


def notify(subject: str, body: str) -> None:
    """Send a notification through the block of Prefect that ARC_NOTIFY names, TYPE/NAME such as slack-webhook/lab.

    `prefect block register` and the UI make blocks. Failures are printed, not raised.
    """
    name = os.environ.get("ARC_NOTIFY")
    if not name:
        return
    from prefect.blocks.core import Block

    try:
        block = Block.load(name)
        block.notify(body, subject=subject)  # type: ignore[union-attr]
    except Exception as error:  # Any network error, and blocks without `notify`.
        print(f"{name} (ARC_NOTIFY) could not be notified of {subject!r}: {error!r}", file=sys.stderr, flush=True)


def report(connection: SyncPrefectClient) -> None:
    """Publish the report of the night now, or later with `late_report` if it was published a moment ago."""
    global _next_report, _due
    _due = time.monotonic() < _next_report
    if _due:
        return
    _next_report = time.monotonic() + REPORT_SECONDS
    for line in share.receive():  # Results of other machines, for the report; `arc night` gets them itself.
        print(line, flush=True)
    night_text.publish(connection, night_report.rows(connection, night_report.since(night_report.HOURS)))


def late_report() -> None:
    """Publish the report of the night if one is due."""
    if _due and time.monotonic() >= _next_report:
        with deployment.kept_client() as connection:
            report(connection)
