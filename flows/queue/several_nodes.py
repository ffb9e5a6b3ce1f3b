"""`arc run --nodes N`: the other machines of a training are runs of the queue that help with its stage `train`."""

import json
import os
import sys
from datetime import datetime
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectException

from flows.cluster import dvc_remote, exchange, settings, share
from flows.queue import admission, deployment, queue
from flows.runs import places, snapshots
from flows.runs.flow import NODES
from flows.runs.places import FlowError, one_line
from flows.runs.request import Request
from tasks.machine import gpu_lock

HELPERS = "ARC_HELPERS"
"""Environment variable of the first machine's run: ids of the runs that help it."""


def ask(connection: SyncPrefectClient, request: Request, count: int, meeting: str) -> dict[str, str]:
    """Queue the runs of the other machines. Returns the variables of this one, the first.

    Raises FlowError, and StageError where `meeting` is no HOST:PORT.
    """
    from tasks.machine import nodes  # It imports torch, which no other run needs here.

    if not (settings.joined() and dvc_remote.configured(places.home())):
        raise FlowError("--nodes needs a cluster with a DVC remote, from which the others get the data: `arc join`")
    nodes.meeting(meeting, "--meeting")
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
    """Cancel what is left of the runs that help this one, which has ended.

    An error of the server is printed, not raised: the caller has more to clean up, and a result to report.
    """
    helpers = os.environ.get(HELPERS, "").split()
    if not helpers:
        return
    try:
        with deployment.client() as connection:
            for run in (connection.read_flow_run(UUID(helper)) for helper in helpers):
                if run.state and not run.state.is_final():
                    print(queue.cancel(connection, run), flush=True)
    except (httpx.HTTPError, PrefectException, RuntimeError, OSError) as error:
        ids = ", ".join(helper[:8] for helper in helpers)
        print(
            f"the runs that helped this one ({ids}) may still run, because they could not be cancelled: "
            f"{one_line(error)}; `arc queue --cancel ID` cancels one",
            file=sys.stderr,
            flush=True,
        )
