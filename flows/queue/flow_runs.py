"""Queries for flow runs in Prefect's database."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

PAGE = 200


def runs(connection: SyncPrefectClient, *types: StateType, since: Any = None) -> list[Any]:
    """Every flow run in one of these states (of any state if none is given), sorted by expected start time."""
    query: dict[str, Any] = {"state": {"type": {"any_": list(types)}}} if types else {}
    if since:
        query["expected_start_time"] = {"after_": since}
    result: list[Any] = []
    while True:
        page = connection.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(query),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=PAGE,
            offset=len(result),
        )
        result += page
        if len(page) < PAGE:
            return result
