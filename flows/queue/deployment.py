"""The queue's objects in Prefect: a work pool with one slot per GPU, two queues, and the deployment with its form."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.cluster import settings
from flows.runs.flow import FLOW_NAME, experiment
from flows.runs.places import FlowError, git, home
from tasks.servers import prefect_server

POOL = "gpu"
DEPLOYMENT = "queue"
DESCRIPTION = "One slot per GPU."
"""Of the pool; while the worker holds the queue, it says why instead."""
ENTRYPOINT = f"{experiment.fn.__module__}.{experiment.fn.__name__}"
QUEUES = {"high": 1, "gpu-high": 2, "cpu-high": 3, "normal": 10, "gpu-normal": 11, "cpu-normal": 12}
"""Priority by queue; lower numbers are served first. Those without a kind of machine are for any."""


def client() -> SyncPrefectClient:
    """A client of the server of this machine."""
    return get_client(sync_client=True)


class _Kept(threading.local):
    def __init__(self) -> None:
        self.clients: list[SyncPrefectClient] = []


_kept = _Kept()


@contextlib.contextmanager
def kept_client() -> Iterator[SyncPrefectClient]:
    """The client that this thread keeps until something fails: a new one takes 20 ms, and the server gives it a token.

    For a worker, which asks all the time.
    """
    connection = _kept.clients.pop() if _kept.clients else client().__enter__()
    try:
        yield connection
    except BaseException as error:
        connection.__exit__(type(error), error, error.__traceback__)
        raise
    _kept.clients.append(connection)


def ensure(connection: SyncPrefectClient, slots: int | None = None) -> None:
    """Create the pool, its queues and the deployment, or update them to the code and presets.yaml.

    The pool keeps its number of slots if `slots` is None. At another clone's server they stay as that one
    makes them.
    """
    if prefect_server.foreign() and _exists(connection):
        return
    pool = WorkPoolCreate(
        name=POOL,
        type="process",
        description=DESCRIPTION,
        base_job_template=template(),
        concurrency_limit=slots or 1,
    )
    with contextlib.suppress(ObjectAlreadyExists):  # Another command may have created it a moment ago.
        connection.create_work_pool(pool)
    # The template again, since somebody may have put a command there.
    update = WorkPoolUpdate(base_job_template=template())
    # In a cluster each worker has its own limit.
    limit = {"concurrency_limit": slots if settings.alone() else None} if slots else {}
    connection.update_work_pool(POOL, update.model_copy(update=limit))
    for name, priority in QUEUES.items():
        with contextlib.suppress(ObjectAlreadyExists):
            connection.create_work_queue(name=name, work_pool_name=POOL, priority=priority)
    connection.create_deployment(
        flow_id=connection.create_flow(experiment),
        name=DEPLOYMENT,
        version=git("describe", "--always", "--dirty", "--exclude=*", cwd=home()),
        work_pool_name=POOL,
        work_queue_name="normal",
        entrypoint=ENTRYPOINT,
        description="One experiment, frozen when the worker first sees it. `arc queue` queues many, frozen at once.",
        parameter_openapi_schema=parameter_schema(experiment).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        pull_steps=[],  # Without it, those that somebody has added would stay.
        # A limit on the deployment would need a lease; a server restart loses leases and then cancels the run.
        concurrency_limit=None,
    )


def queue_of(priority: str, machine: str) -> str:
    """The queue of a run by its priority and the kind of machine that it needs."""
    return priority if machine == "any" else f"{machine}-{priority}"


def served() -> list[str] | None:
    """The queues that this machine serves, None for all: a GPU is for `gpu`, and runs for `cpu` leave it free."""
    if settings.alone():
        return None
    kind = "gpu" if gpus() else "cpu"
    named = [name for name in QUEUES if name in ("high", "normal") or name.startswith(kind)]
    return [*named, "default"]  # Prefect's own queue: what others put there is refused.


def _exists(connection: SyncPrefectClient) -> bool:
    try:
        return identity(connection) is not None
    except FlowError:
        return False


def identity(connection: SyncPrefectClient) -> Any:
    """Id of the deployment. Raises FlowError if the server has none."""
    try:
        return connection.read_deployment_by_name(f"{FLOW_NAME}/{DEPLOYMENT}").id
    except ObjectNotFound:
        raise FlowError(f"no deployment {FLOW_NAME}/{DEPLOYMENT} on the server; start `arc worker`") from None


def template() -> dict[str, Any]:
    """The job template of process workers."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def slots() -> int:
    """Number of simultaneous runs: one per GPU, or a single one if ARC_GPUS spreads each run over several GPUs."""
    return max(1, gpus()) if os.environ.get("ARC_GPUS", "1") in ("", "1") else 1


def gpus() -> int:
    """Number of visible GPUs, counted in a separate process so that no CUDA context stays in this one."""
    count = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, env={**os.environ})
    if done.returncode:
        raise FlowError(f"torch cannot count the GPUs: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout)
