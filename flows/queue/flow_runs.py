"""Flow runs of this project in Prefect's database, page by page."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

PAGE = 200


def runs(connection: SyncPrefectClient, *types: StateType, since: Any = None) -> list[Any]:
    """Every flow run of ours in one of these states, by the time that it was expected to start."""
    wanted: dict[str, Any] = {"state": {"type": {"any_": list(types)}}} if types else {}
    if since:
        wanted["expected_start_time"] = {"after_": since}
    found: list[Any] = []
    while True:
        page = connection.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(wanted),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < PAGE:
            return found
