"""`arc queue`: submit, list, bump, cancel."""

import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Cancelling, Scheduled

from flows.queue import admission, deployment, flow_runs
from flows.queue.times import local
from flows.runs import places
from flows.runs import snapshots as freeze
from flows.runs.places import FlowError
from flows.runs.request import Request, parse

WAITING = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


def submit(connection: SyncPrefectClient, requests: Sequence[Request], at: datetime | None) -> list[Any]:
    """Freeze and queue them in this order. One wrong request, and none is queued (it was checked when made)."""
    chosen, tree = deployment.identity(connection), places.tree()
    start = at or datetime.now().astimezone()
    snapshots = freeze.freeze(requests, tree)
    if snapshots and snapshots[0].warning:
        print(f"warning: {snapshots[0].warning}", file=sys.stderr)
    return [
        # A queue serves by time: a millisecond apart, they keep their order.
        admission.create(connection, chosen, request, snapshot, start + timedelta(milliseconds=i))
        for i, (request, snapshot) in enumerate(zip(requests, snapshots, strict=True))
    ]


def waiting(connection: SyncPrefectClient) -> list[Any]:
    """What runs and what waits, in the order in which it will run."""
    order = [StateType.RUNNING, StateType.CANCELLING, StateType.PENDING, StateType.SCHEDULED]

    def key(run: Any) -> tuple[int, int, Any]:
        return (
            order.index(run.state.type),
            deployment.QUEUES.get(run.work_queue_name, 99),
            run.next_scheduled_start_time or run.expected_start_time,
        )

    return sorted(flow_runs.runs(connection, *WAITING), key=key)


def bump(connection: SyncPrefectClient, chosen: Any) -> str:
    """Put a waiting run before all others."""
    if chosen.state.type != StateType.SCHEDULED:
        raise FlowError(f"{chosen.name} is {chosen.state.name}; only what waits can be bumped")
    request = parse(chosen.parameters)
    commit = admission.commit_of(chosen)
    first = [run.next_scheduled_start_time for run in waiting(connection) if run.state.type == StateType.SCHEDULED]
    earliest = min([*first, datetime.now().astimezone()]) - timedelta(seconds=1)
    if chosen.work_queue_name == "high" or commit is None:
        state: State[Any] = Scheduled(scheduled_time=earliest, message="bumped")
        connection.set_flow_run_state(chosen.id, state, force=True)
        return f"{chosen.name}: first in its queue"
    # Prefect has no call that moves a run to another queue: an equal one takes its place.
    snapshot = freeze.Snapshot(commit, ())
    admission.create(
        connection, chosen.deployment_id, request.model_copy(update={"priority": "high"}), snapshot, earliest
    )
    connection.delete_flow_run(chosen.id)
    return f"{chosen.name}: first in queue high"


def cancel(connection: SyncPrefectClient, chosen: Any) -> str:
    """Cancel a run: one that waits at once, one that runs as soon as it has saved."""
    if chosen.state.type == StateType.SCHEDULED:
        connection.set_flow_run_state(chosen.id, Cancelled(message="cancelled before it began"), force=True)
        return f"{chosen.name}: cancelled before it began"
    connection.set_flow_run_state(chosen.id, Cancelling(message="asked by `arc queue --cancel`"))
    return f"{chosen.name}: ending; it saves first, within 30 s"


def find(connection: SyncPrefectClient, text: str) -> Any:
    """The waiting or running run that `text` names: the start of its id, its title, or its number in the list."""
    known = waiting(connection)
    if re.fullmatch(r"\d{1,3}", text) and 1 <= int(text) <= len(known):
        return known[int(text) - 1]
    found = [run for run in known if str(run.id).startswith(text)] or [run for run in known if run.name == text]
    if len(found) != 1:
        many = f"{len(found)} runs are" if found else "no run is"
        raise FlowError(f"{many} named {text!r}; `arc queue --list` numbers them")
    return found[0]


def rows(connection: SyncPrefectClient) -> list[dict[str, str]]:
    """The list as a table."""
    return [
        {
            "": str(number),
            "id": str(run.id)[:8],
            "run": run.name,
            "queue": run.work_queue_name or "",
            "state": run.state.name,
            "start": local(run.start_time or run.next_scheduled_start_time or run.expected_start_time),
        }
        for number, run in enumerate(waiting(connection), 1)
    ]
