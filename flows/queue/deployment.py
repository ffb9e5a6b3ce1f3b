"""What the queue is made of in Prefect: a work pool with one slot a GPU, two queues, the deployment with its form."""

import contextlib
import os
import subprocess
import sys
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.runs.experiment import NAME, experiment
from flows.runs.places import FlowError

POOL = "gpu"
DEPLOYMENT = "queue"
QUEUES = {"high": 1, "normal": 10}
"""Priorities: the lower one is served first."""


def client() -> SyncPrefectClient:
    """A client of the server of this machine."""
    return get_client(sync_client=True)


def ensure(connection: SyncPrefectClient, slots: int | None = None) -> None:
    """Make the pool, its queues and the deployment, or bring them up to date with the code and presets.yaml.

    `slots` is left as it is when None.
    """
    pool = WorkPoolCreate(
        name=POOL,
        type="process",
        description="One slot a GPU.",
        base_job_template=template(),
        concurrency_limit=slots or 1,
    )
    with contextlib.suppress(ObjectAlreadyExists):  # Perhaps since a moment ago, by another command.
        connection.create_work_pool(pool)
    if slots is not None:
        connection.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=slots))
    for name, priority in QUEUES.items():
        with contextlib.suppress(ObjectAlreadyExists):
            connection.create_work_queue(name=name, work_pool_name=POOL, priority=priority)
    connection.create_deployment(
        flow_id=connection.create_flow(experiment),
        name=DEPLOYMENT,
        work_pool_name=POOL,
        work_queue_name="normal",
        entrypoint=f"{experiment.fn.__module__}.{experiment.fn.__name__}",
        description="One experiment, frozen when the worker first sees it. `arc queue` queues many, frozen at once.",
        parameter_openapi_schema=parameter_schema(experiment).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        # A limit of the deployment's own would take a lease that a server restart loses, and cancel the run.
        concurrency_limit=None,
    )


def identity(connection: SyncPrefectClient) -> Any:
    """The deployment. Raises FlowError."""
    try:
        return connection.read_deployment_by_name(f"{NAME}/{DEPLOYMENT}").id
    except ObjectNotFound:
        raise FlowError(f"no deployment {NAME}/{DEPLOYMENT} on the server; start `arc worker`") from None


def template() -> dict[str, Any]:
    """The job template of process workers."""
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()


def slots() -> int:
    """How many runs at once: one a GPU, or one alone where ARC_GPUS spreads each over several."""
    return max(1, gpus()) if os.environ.get("ARC_GPUS", "1") in ("", "1") else 1


def gpus() -> int:
    """GPUs of this machine that may be used; asked in a process of its own, which leaves nothing on them."""
    asked = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env={**os.environ})
    if done.returncode:
        raise FlowError(f"torch cannot count the GPUs: {done.stderr.strip().splitlines()[-1:]}")
    return int(done.stdout)
