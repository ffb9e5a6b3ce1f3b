"""Queries for the flow runs of this checkout in Prefect's database; runs of other deployments are nobody's business."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    FlowFilter,
    FlowRunFilter,
    WorkPoolFilter,
    WorkQueueFilter,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

from flows.queue.deployment import DEPLOYMENT, POOL
from flows.runs import places
from flows.runs.flow import FLOW_NAME

PAGE = 200
ACTIVE = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
"""Of runs that a worker or an `arc run` executes."""
WAITING = (StateType.SCHEDULED, StateType.PAUSED)
"""Of runs that have no process, and may get one: their frozen code and their worktrees stay."""
_OURS = FlowFilter.model_validate({"name": {"any_": [FLOW_NAME]}})
_QUEUED = DeploymentFilter.model_validate({"name": {"any_": [DEPLOYMENT]}})


def runs(connection: SyncPrefectClient, *types: StateType, tag: str = "", ended_after: Any = None) -> list[Any]:
    """Our flow runs in one of these states (of any state if none is given), sorted by expected start time.

    Ours are those of our deployment, and each `arc run` of this checkout. With `tag`, those that have it; with
    `ended_after`, those that ended after this time.
    """
    state: dict[str, Any] = {"state": {"type": {"any_": list(types)}}} if types else {}
    state |= {"tags": {"all_": [tag]}} if tag else {}
    state |= {"end_time": {"after_": ended_after}} if ended_after else {}
    queued = _pages(connection, state, _QUEUED)
    alone = _pages(connection, {**state, "deployment_id": {"is_null_": True}}, None)
    # Anybody may have a flow of this name; a run of ours has its records here.
    own = [run for run in alone if places.folder_of(str(run.id)).exists()]
    return sorted((run for run in queued + own if run.state), key=lambda run: run.expected_start_time or run.created)


def first_due(connection: SyncPrefectClient, queues: dict[str, Any], until: Any) -> Any | None:
    """The first run that waits in these queues of our pool and is to start at or before a time; None for none."""
    query = {"state": {"type": {"any_": [StateType.SCHEDULED]}}, "next_scheduled_start_time": {"before_": until}}
    due_runs = connection.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate(query),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        work_queue_filter=WorkQueueFilter.model_validate(queues),
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
        limit=1,
    )
    return due_runs[0] if due_runs else None


def _pages(connection: SyncPrefectClient, query: dict[str, Any], deployments: DeploymentFilter | None) -> list[Any]:
    result: list[Any] = []
    while True:
        page = connection.read_flow_runs(
            flow_filter=_OURS,
            flow_run_filter=FlowRunFilter.model_validate(query),
            deployment_filter=deployments,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=PAGE,
            offset=len(result),
        )
        result += page
        if len(page) < PAGE:
            return result
