"""`python -m tests.support.sleeping_worker SECONDS`: an `arc worker` whose runs sleep instead of computing.

Everything else is that of our worker: which runs it takes, what it refuses, and what it does after each.
"""

import asyncio
import os
import sys
import threading
from typing import Any

from flows.console import environment, server

environment()
server()
os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
os.environ.setdefault("PREFECT_WORKER_PREFETCH_SECONDS", "1")

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.states import Completed, Running  # noqa: E402
from prefect.workers.process import ProcessJobConfiguration, ProcessWorkerResult  # noqa: E402

from flows.cluster import owners  # noqa: E402
from flows.queue import deployment  # noqa: E402
from flows.worker.watch import watch  # noqa: E402
from flows.worker.worker import Worker  # noqa: E402


class Sleeping(Worker):
    """Sleeps for `seconds` for each run."""

    seconds = 1.0

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "arc-sleeping"

    async def run(
        self, flow_run: Any, configuration: ProcessJobConfiguration, task_status: Any = None
    ) -> ProcessWorkerResult:
        """Let the run be RUNNING for a while, then COMPLETED."""
        self.started.add(str(flow_run.id))
        if task_status:
            task_status.started(os.getpid())
        async with get_client() as connection:
            await connection.set_flow_run_state(flow_run.id, Running())
            await asyncio.sleep(self.seconds)
            await connection.set_flow_run_state(flow_run.id, Completed())
        return ProcessWorkerResult(identifier=str(flow_run.id), status_code=0)


if __name__ == "__main__":
    Sleeping.seconds = float(sys.argv[1])
    worker = Sleeping(
        work_pool_name=deployment.POOL, name=owners.worker_name(), limit=1, work_queues=deployment.served()
    )
    threading.Thread(target=watch, args=(worker,), daemon=True).start()
    asyncio.run(worker.start())
