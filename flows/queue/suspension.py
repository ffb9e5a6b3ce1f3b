"""The button Suspend of Prefect's page: a run saves, ends and gives its slot back; Resume queues it again.

Prefect itself would suspend a run between two stages only, and fail one that nobody resumes in time.
"""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Suspended

STATE_NAME = "Suspended"


def is_suspended(run: Any) -> bool:
    """Whether a run is suspended, so that Resume would queue it again; a paused one waits with its processes."""
    return run.state.is_paused() and bool(run.state.state_details.pause_reschedule)


def keep(connection: SyncPrefectClient, run: Any, message: str) -> None:
    """Suspend a run for as long as nobody resumes it: the page gives it a time after which it fails."""
    state: State[Any] = Suspended(message=message)
    connection.set_flow_run_state(run.id, state, force=True)
