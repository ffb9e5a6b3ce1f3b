"""`arc run --nodes N`: the other machines of a training are runs of the queue that help with its stage `train`."""

import json
import os
import re
from datetime import datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient

from flows.cluster import dvc_remote, exchange, settings, share
from flows.queue import admission, deployment, queue
from flows.runs import places, snapshots
from flows.runs.flow import NODES
from flows.runs.places import FlowError
from flows.runs.request import Request
from tasks.machine import gpu_lock

HELPERS = "ARC_HELPERS"
"""Environment variable of the first machine's run: ids of the runs that help it."""
MEETING = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


def ask(connection: SyncPrefectClient, request: Request, count: int, meeting: str) -> dict[str, str]:
    """Queue the runs of the other machines. Returns the variables of this one, the first. Raises FlowError."""
    if not (settings.joined() and dvc_remote.configured(places.home())):
        raise FlowError("--nodes needs a cluster with a DVC remote, from which the others get the data: `arc join`")
    if not MEETING.fullmatch(meeting):
        raise FlowError(f"--meeting is {meeting!r}; allowed is HOST:PORT at which the others reach this machine")
    if row := gpu_lock.holder(places.scratch() / "worker.lock"):
        raise FlowError(
            f"the worker of this clone (process {row['process']}) would take the place of another machine; end it with "
            "Ctrl-C, and start it again after this run"
        )
    target, helpers = deployment.identity(connection), []
    first = {"ARC_NODES": str(count), "ARC_NODE": "0", "ARC_MEETING": meeting}
    for number in range(1, count):
        content = json.dumps({**first, "ARC_NODE": str(number)})
        [frozen] = snapshots.freeze([request], places.tree(), {NODES: content})
        exchange.share_frozen([frozen.commit])
        name = f"{request.title}, machine {number + 1} of {count}"
        urgent = request.model_copy(update={"priority": "high"})
        run = admission.create(connection, target, urgent, frozen, datetime.now().astimezone(), name)
        helpers.append(str(run.id))
        print(f"queued {str(run.id)[:8]} {name}", flush=True)
    return {**first, HELPERS: " ".join(helpers), **share.variables()}


def dismiss() -> None:
    """Cancel what is left of the runs that help this one, which has ended."""
    helpers = os.environ.get(HELPERS, "").split()
    if not helpers:
        return
    with deployment.client() as connection:
        for run in (connection.read_flow_run(UUID(helper)) for helper in helpers):
            if run.state and not run.state.is_final():
                print(queue.cancel(connection, run), flush=True)
