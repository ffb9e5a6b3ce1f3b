"""Admission of runs queued in Prefect's UI: the worker validates them, freezes the code and sets their queue."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.states import Failed, Scheduled

from flows.queue import flow_runs
from flows.runs import places, snapshots
from flows.runs.places import FlowError
from flows.runs.request import Request, parse

COMMIT = "ARC_COMMIT"


def commit_of(run: Any) -> str | None:
    """The frozen commit of a run, from its job variables; None for a run that is not frozen yet."""
    variables = (run.job_variables or {}).get("env") or {}
    return variables.get(COMMIT)


def variables(commit: str) -> dict[str, Any]:
    """Job variables that hold the frozen commit."""
    return {"env": {COMMIT: commit}}


def create(
    connection: SyncPrefectClient, deployment: Any, request: Request, snapshot: snapshots.Snapshot, scheduled_time: Any
) -> Any:
    """Create a run in the queue of its priority, to start at `scheduled_time`."""
    return connection.create_flow_run_from_deployment(
        deployment,
        parameters={"request": request.model_dump(mode="json")},
        name=request.title,
        tags=[f"code:{snapshot.commit[:8]}"],
        state=Scheduled(scheduled_time=scheduled_time),
        work_queue_name=request.priority,
        job_variables=variables(snapshot.commit),
    )


def admit(connection: SyncPrefectClient) -> list[str]:
    """Admit every waiting run that is not frozen yet. Returns a log line for each action."""
    log = []
    for run in flow_runs.runs(connection, StateType.SCHEDULED):
        if commit_of(run) or run.deployment_id is None:
            continue
        try:
            request = parse(run.parameters)
        except FlowError as error:
            connection.set_flow_run_state(run.id, Failed(message=str(error)), force=True)
            log.append(f"{run.name}: {error}")
            continue
        [snapshot] = snapshots.freeze([request], places.home())
        log.append(f"{request.title}: frozen as {snapshot.commit[:8]}, queue {request.priority}")
        if snapshot.warning:
            log.append(f"{request.title}: {snapshot.warning}")
        # Prefect cannot move a run to another queue, so an identical run replaces it.
        create(connection, run.deployment_id, request, snapshot, run.next_scheduled_start_time)
        connection.delete_flow_run(run.id)
    return log
