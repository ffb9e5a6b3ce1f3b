"""Runs that were queued in the UI, where no code of ours runs: checked, frozen and put into their queue here."""

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
    """The frozen commit of a run, which it carries among its job variables."""
    variables = (run.job_variables or {}).get("env") or {}
    return variables.get(COMMIT)


def variables(commit: str) -> dict[str, Any]:
    """Job variables that carry the frozen commit."""
    return {"env": {COMMIT: commit}}


def create(
    connection: SyncPrefectClient, deployment: Any, request: Request, snapshot: snapshots.Snapshot, scheduled_time: Any
) -> Any:
    """A run in the queue of its priority."""
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
    """Admit every run that waits and is not frozen yet; says what it did."""
    told = []
    for run in flow_runs.runs(connection, StateType.SCHEDULED):
        if commit_of(run) or run.deployment_id is None:
            continue
        try:
            request = parse(run.parameters)
        except FlowError as error:
            connection.set_flow_run_state(run.id, Failed(message=str(error)), force=True)
            told.append(f"{run.name}: {error}")
            continue
        [snapshot] = snapshots.freeze([request], places.home())
        told.append(f"{request.title}: frozen as {snapshot.commit[:8]}, queue {request.priority}")
        if snapshot.warning:
            told.append(f"{request.title}: {snapshot.warning}")
        # Prefect has no call that moves a run to another queue: an equal one takes its place.
        create(connection, run.deployment_id, request, snapshot, run.next_scheduled_start_time)
        connection.delete_flow_run(run.id)
    return told
