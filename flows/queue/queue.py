"""`arc queue`: submit, list, bump, cancel."""

import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Cancelling, Scheduled

from flows.cluster import exchange, owners, settings, share
from flows.queue import admission, deployment, flow_runs
from flows.queue.times import local
from flows.runs import places, snapshots
from flows.runs.places import FlowError, one_line
from flows.runs.request import Request, parse

LISTED = (StateType.RUNNING, StateType.CANCELLING, StateType.PENDING, StateType.SCHEDULED, StateType.PAUSED)
SHORTEST_ID = 4
"""Characters of an id that must be given."""


def submit(connection: SyncPrefectClient, requests: Sequence[Request], at: datetime | None) -> list[Any]:
    """Freeze the code and queue the requests in this order, none before the time `at` (now if None)."""
    target, tree = deployment.identity(connection), places.tree()
    start = at or datetime.now().astimezone()
    frozen = snapshots.freeze(requests, tree)
    if frozen and frozen[0].warning:
        print(f"warning: {frozen[0].warning}", file=sys.stderr)
    exchange.share_frozen(snapshot.commit for snapshot in frozen)
    if settings.joined() and (own := share.own_files_missing(tree)):
        print(f"warning: other machines lack {', '.join(own[:5])}; `dvc add` them in data/own", file=sys.stderr)
    queued: list[Any] = []
    for request, snapshot in zip(requests, frozen, strict=True):
        # Queues are sorted by start time; one millisecond between runs keeps the order.
        moment = start + timedelta(milliseconds=len(queued))
        try:
            queued.append(admission.create(connection, target, request, snapshot, moment))
        except (PrefectException, httpx.HTTPError) as error:
            if not queued:
                raise
            done = f"the first {len(queued)} of {len(requests)} runs are queued, and the server refused the next"
            raise FlowError(
                f"{done}: {one_line(error)}; `arc queue --list` shows them, queue the others again"
            ) from None
    return queued


def waiting(connection: SyncPrefectClient) -> list[Any]:
    """Running and waiting runs in the order of execution, and suspended ones."""

    def key(run: Any) -> tuple[int, int, Any]:
        return (
            LISTED.index(run.state.type),
            deployment.QUEUES.get(run.work_queue_name, 99),
            run.next_scheduled_start_time or run.expected_start_time,
        )

    return sorted(flow_runs.runs(connection, *LISTED), key=key)


def bump(connection: SyncPrefectClient, chosen: Any) -> str:
    """Move a waiting run to the front of the queue. Raises FlowError if it is not waiting."""
    chosen = connection.read_flow_run(chosen.id)  # A worker may have taken it since it was listed.
    if chosen.state.type != StateType.SCHEDULED:
        raise FlowError(f"{chosen.name} is {chosen.state.name}; only waiting runs can be bumped")
    request = parse(chosen.parameters)
    commit = admission.commit_of(chosen)
    first = [run.next_scheduled_start_time for run in waiting(connection) if run.state.type == StateType.SCHEDULED]
    earliest = min([*first, datetime.now().astimezone()]) - timedelta(seconds=1)
    if str(chosen.work_queue_name).endswith("high") or commit is None:
        state: State[Any] = Scheduled(scheduled_time=earliest, message="bumped")
        connection.set_flow_run_state(chosen.id, state, force=True)
        return f"{chosen.name}: first in its queue"
    # Prefect cannot move a run to another queue, so an identical run replaces it.
    snapshot = snapshots.Snapshot(commit, ())
    moved = request.model_copy(update={"priority": "high"})
    instead = admission.create(connection, chosen.deployment_id, moved, snapshot, earliest, replaces=chosen)
    present = connection.read_flow_run(chosen.id).state
    if present is None or present.type != StateType.SCHEDULED:
        connection.delete_flow_run(instead.id)
        raise FlowError(f"{chosen.name} began meanwhile, so it needs no other place")
    connection.delete_flow_run(chosen.id)
    return f"{chosen.name}: first in queue {deployment.queue_of('high', request.machine)}"


def cancel(connection: SyncPrefectClient, chosen: Any) -> str:
    """Cancel a run: immediately if it waits, after it has saved if it runs."""
    chosen = connection.read_flow_run(chosen.id)  # A worker may have taken it since it was listed.
    if chosen.state.type in flow_runs.WAITING:
        message = "cancelled before it began" if chosen.run_count == 0 else "cancelled before it went on"
        connection.set_flow_run_state(chosen.id, Cancelled(message=message), force=True)
        return f"{chosen.name}: {message}"
    connection.set_flow_run_state(chosen.id, Cancelling(message="cancelled by `arc queue --cancel`"))
    return f"{chosen.name}: cancelling; a training saves first, which takes at most 30 s"


def find(connection: SyncPrefectClient, text: str) -> Any:
    """The active run given by its number in the list, its title or the start of its id. Raises FlowError."""
    listed = waiting(connection)
    if re.fullmatch(r"\d{1,3}", text) and 1 <= int(text) <= len(listed):
        return listed[int(text) - 1]
    matches = [run for run in listed if run.name == text]
    # Nothing, as an unset variable gives, is the start of every id.
    if not matches and len(text) >= SHORTEST_ID:
        matches = [run for run in listed if str(run.id).startswith(text)]
    if len(matches) != 1:
        count = f"{len(matches)} runs match" if matches else "no run matches"
        raise FlowError(
            f"{count} {text!r}; allowed are a number or a title of `arc queue --list`, or at least {SHORTEST_ID} "
            "characters of an id"
        )
    return matches[0]


def rows(connection: SyncPrefectClient) -> list[dict[str, str]]:
    """Rows of `arc queue --list`; in a cluster with the worker that took each run."""
    cluster = settings.joined()
    return [
        {
            "": str(number),
            "id": str(run.id)[:8],
            "run": run.name,
            "queue": run.work_queue_name or "",
            **({"worker": owners.owner(run)} if cluster else {}),
            "state": run.state.name,
            "start": local(run.start_time or run.next_scheduled_start_time or run.expected_start_time),
        }
        for number, run in enumerate(waiting(connection), 1)
    ]
