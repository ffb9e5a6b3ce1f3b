"""Recovery after a crash: ends orphaned processes, corrects the states of dead runs, and resumes each of them.

A run is dead if its worker, or its last process, has ended. Its records on disk say how far it got.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.sorting import TaskRunSort
from prefect.states import Cancelled, Crashed, Failed, Scheduled
from prefect.types._datetime import now

from flows.cluster import owners
from flows.queue import suspension
from flows.queue.flow_runs import ACTIVE, PAGE, runs
from flows.runs import failure_reasons, processes, records
from flows.runs.places import one_line

FULL_DISKS = 5
"""Full disks at one place of a run after which it is not resumed again."""
LOST_MACHINES = 3
"""Machines that died while they executed a run, after which it is not resumed again: it may be what kills them."""


def recover(connection: SyncPrefectClient) -> list[tuple[UUID, str]]:
    """Settle every run of ours that Prefect shows as active. Call it while no worker runs. Returns a log line for each.

    A run that cannot be settled is reported and stays as it is; the others are settled.
    """
    lost = [(run, "its worker ended") for run in runs(connection, *ACTIVE) if _lost(run) and owners.here(run)]
    # Its worker ended before it ended them.
    lost += [(run, "suspended") for run in suspended(connection).values() if processes.living(str(run.id))]
    # A run could report its crash although no worker was left to settle it.
    every = runs(connection, StateType.CRASHED)
    crashed = [(run, run.state.message or "crashed") for run in every if owners.here(run)]
    log = []
    for run, reason in [*lost, *((run, reason) for run, reason in crashed if run.deployment_id)]:
        try:
            log.append((run.id, settle(connection, run, reason)))
        except Exception as error:  # Whatever is wrong with one run; `arc doctor` finds what is left of it.
            log.append((run.id, f"{run.name}: cannot be recovered: {type(error).__name__}: {one_line(error)}"))
    return log


def settle(connection: SyncPrefectClient, run: Any, reason: str) -> str:
    """End the remaining processes of a run, set its state, and queue it again if it may resume. Returns a log line."""
    left = processes.end(str(run.id))
    ended = f"; ended {left} processes" if left else ""
    if run.state.type == StateType.CANCELLING:
        connection.set_flow_run_state(run.id, Cancelled(message="cancelled"), force=True)
        return f"{run.name}: cancelled{ended}"
    if line := settle_suspended(connection, run):
        return line + ended
    if run.deployment_id is None:  # Started by `arc run`; only the user starts it again.
        connection.set_flow_run_state(run.id, Crashed(message="its process ended"), force=True)
        return f"{run.name}: crashed{ended}"
    if not owners.here(run):
        return _resume_elsewhere(connection, run, reason) + ended
    return resume(connection, run.id, run.name, reason) + ended


def resume(connection: SyncPrefectClient, run: UUID, name: str, reason: str) -> str:
    """Mark a run as crashed and queue it again, unless it died at the same update before. Returns a log line."""
    message = f"died {reached(str(run))}: {reason}"
    end_tasks(connection, run, Crashed(message=message))
    records.end_stage(str(run), reason)
    if records.take_stopped(str(run)):  # No death of its own: it may be stopped there any number of times.
        _queue_again(connection, run, message)
        return f"{name}: {message}; queued again"
    first, full = records.add_death(str(run), reason), failure_reasons.FULL in reason
    if not first and not (full and records.deaths_here(str(run)) <= FULL_DISKS):
        connection.set_flow_run_state(run, Failed(message=f"{message}; it died there before"), force=True)
        return f"{name}: {message}; it died there before, so it is not resumed"
    _queue_again(connection, run, message)
    return f"{name}: {message}; queued again"


def _resume_elsewhere(connection: SyncPrefectClient, run: Any, reason: str) -> str:
    """Queue a run of a dead machine again, unless several machines have died with it. Returns a log line."""
    message = f"died on another machine: {reason}"
    end_tasks(connection, run.id, Crashed(message=message))
    if (count := records.add_lost_machine(str(run.id), reason)) >= LOST_MACHINES:
        why = f"{message}; {count} machines have died with it, so it is not resumed"
        connection.set_flow_run_state(run.id, Failed(message=why), force=True)
        return f"{run.name}: {why}"
    _queue_again(connection, run.id, message)
    return f"{run.name}: {message}; queued again"


def _queue_again(connection: SyncPrefectClient, run: UUID, message: str) -> None:
    connection.set_flow_run_state(run, Crashed(message=message), force=True)
    # A start time in the past puts it before all waiting runs of its queue.
    again: State[Any] = Scheduled(scheduled_time=now("UTC") - timedelta(days=1), name="Resuming", message=message)
    connection.set_flow_run_state(run, again, force=True)


def suspended(connection: SyncPrefectClient) -> dict[UUID, Any]:
    """The suspended runs of this clone by their ids."""
    paused = runs(connection, StateType.PAUSED)
    return {run.id: run for run in paused if suspension.is_suspended(run) and owners.here(run)}


def settle_suspended(connection: SyncPrefectClient, run: Any) -> str | None:
    """Set the state of a run whose processes were ended because it was suspended, and return a log line.

    None, and nothing is done, if it was not suspended after its last start, or has ended otherwise.
    """
    requests = [k for k in kinds_since_start(connection, run.id) if k in (StateType.PAUSED, StateType.SCHEDULED)]
    if StateType.PAUSED not in requests or run.state.type not in (StateType.PAUSED, StateType.CRASHED):
        return None
    message = f"suspended {reached(str(run.id))}"
    end_tasks(connection, run.id, Cancelled(name=suspension.STATE_NAME, message=message))
    records.end_stage(str(run.id), message)
    if requests[-1] == StateType.SCHEDULED:  # Resumed while it saved.
        again: State[Any] = Scheduled(scheduled_time=now("UTC"), name="Resuming", message=message)
        connection.set_flow_run_state(run.id, again, force=True)
        return f"{run.name}: {message} and resumed"
    suspension.keep(connection, run, message)
    return f"{run.name}: {message}; Resume on its page queues it again"


def was_cancelled(connection: SyncPrefectClient, run: UUID) -> bool:
    """Whether the run was cancelled after its last start."""
    return StateType.CANCELLING in kinds_since_start(connection, run)


def kinds_since_start(connection: SyncPrefectClient, run: UUID) -> list[StateType]:
    """The types of the states of a run after it began to run the last time, in order."""
    states = sorted(connection.read_flow_run_states(run), key=lambda state: state.timestamp)
    kinds = [state.type for state in states]
    started = max((i for i, kind in enumerate(kinds) if kind == StateType.RUNNING), default=-1)
    return kinds[started + 1 :]


def mark_cancelled(connection: SyncPrefectClient, run: UUID) -> None:
    """Set the state of a run to cancelled, whichever state Prefect gave it."""
    connection.set_flow_run_state(run, Cancelled(message="cancelled"), force=True)


def reached(run: str) -> str:
    """How far a run got, in words."""
    where = records.progress(run)
    return f"in {where.stage}, after update {where.step}" if where.step else f"in {where.stage or 'no stage yet'}"


def end_tasks(connection: SyncPrefectClient, run: UUID, state: State[Any]) -> None:
    """Give the active tasks of a dead run this state."""
    query = FlowRunFilter.model_validate({"id": {"any_": [run]}})
    for row in connection.read_task_runs(flow_run_filter=query, sort=TaskRunSort.ID_DESC, limit=PAGE):
        if row.state_type in (StateType.RUNNING, StateType.PENDING):
            connection.set_task_run_state(row.id, state, force=True)


def _lost(run: Any) -> bool:
    """Whether the run is dead. Runs of a worker die with it; an `arc run` has a process of its own."""
    return run.deployment_id is not None or processes.recorded(str(run.id)) is None
