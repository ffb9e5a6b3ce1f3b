"""After a crash: no run shown as running that is not, no process left over, and each interrupted run resumed once.

A run is dead when none of its processes lives under a worker that lives. Its record on the disk tells how far it came.
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

from flows.queue.flow_runs import PAGE, runs
from flows.runs import processes, records

ACTIVE = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def recover(connection: SyncPrefectClient) -> list[tuple[UUID, str]]:
    """Settle every run that is shown as active. To be called while no worker works; says what it did with each."""
    told = [(run.id, settle(connection, run, "its worker ended")) for run in runs(connection, *ACTIVE) if _lost(run)]
    # A run that still could say that it crashed had no worker left to look after it.
    crashed = [run for run in runs(connection, StateType.CRASHED) if run.deployment_id]
    return told + [(run.id, settle(connection, run, run.state.message or "crashed")) for run in crashed]


def settle(connection: SyncPrefectClient, run: Any, reason: str) -> str:
    """End what is left of a run, mark it, and queue it again if it may go on."""
    left = processes.end(str(run.id))
    ended = f"; ended {left} processes" if left else ""
    if run.state.type == StateType.CANCELLING:
        connection.set_flow_run_state(run.id, Cancelled(message="cancelled"), force=True)
        return f"{run.name}: cancelled{ended}"
    if run.deployment_id is None:  # Of `arc run`: nobody but who started it starts it again.
        connection.set_flow_run_state(run.id, Crashed(message="its process ended"), force=True)
        return f"{run.name}: crashed{ended}"
    return resume(connection, run.id, run.name, reason) + ended


def resume(connection: SyncPrefectClient, run: UUID, name: str, reason: str) -> str:
    """Mark a run that died, and queue it again unless it died at the same place before."""
    where = records.progress(str(run))
    place = f"in {where.stage}, after update {where.step}" if where.step else f"in {where.stage or 'no stage yet'}"
    message = f"died {place}: {reason}"
    end_tasks(connection, run, message)
    records.end_stage(str(run), reason)
    if not records.add_death(str(run), reason):
        connection.set_flow_run_state(run, Failed(message=f"{message}; it died there before"), force=True)
        return f"{name}: {message}; it died there before and is left failed"
    connection.set_flow_run_state(run, Crashed(message=message), force=True)
    # In the past, so that it comes before whatever waits in its queue.
    again: State[Any] = Scheduled(scheduled_time=now("UTC") - timedelta(days=1), name="Resuming", message=message)
    connection.set_flow_run_state(run, again, force=True)
    return f"{name}: {message}; queued again"


def asked_to_end(connection: SyncPrefectClient, run: UUID) -> bool:
    """Whether the run was cancelled since it last began."""
    states = sorted(connection.read_flow_run_states(run), key=lambda state: state.timestamp)
    kinds = [state.type for state in states]
    begun = max((i for i, kind in enumerate(kinds) if kind == StateType.RUNNING), default=-1)
    return StateType.CANCELLING in kinds[begun + 1 :]


def cancelled(connection: SyncPrefectClient, run: UUID) -> None:
    """Mark a run that was cancelled, whatever its end looked like to Prefect."""
    connection.set_flow_run_state(run, Cancelled(message="cancelled"), force=True)


def end_tasks(connection: SyncPrefectClient, run: UUID, message: str) -> None:
    """Mark the tasks of a dead run."""
    wanted = FlowRunFilter.model_validate({"id": {"any_": [run]}})
    for row in connection.read_task_runs(flow_run_filter=wanted, sort=TaskRunSort.ID_DESC, limit=PAGE):
        if row.state_type in (StateType.RUNNING, StateType.PENDING):
            connection.set_task_run_state(row.id, Crashed(message=message), force=True)


def _lost(run: Any) -> bool:
    """Whether no living `arc run` has it; runs of a worker are lost with the worker."""
    return run.deployment_id is not None or processes.noted(str(run.id)) is None
