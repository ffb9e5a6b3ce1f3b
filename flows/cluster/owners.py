"""Which machine executes a run, and whether its worker lives.

A worker writes its name into the labels of each run that it takes, and Prefect's server counts it as offline three
heartbeats after its last one (90 s).
"""

import os
import socket
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from prefect.client.orchestration import SyncPrefectClient

from flows.cluster import settings
from flows.runs import places
from model.storage.digests import digest_text

LABEL = "prefect.worker.name"
STARTING_SECONDS = 15.0
"""In which a worker has written its name into a run that it takes."""
HEARTBEAT = "PREFECT_WORKER_HEARTBEAT_SECONDS"
DEAD_HEARTBEATS = 3
"""After which a worker without one is dead, for us as for Prefect's server."""
RETURN_HEARTBEATS = 4
"""After the server was away, in which every living worker is counted as living again."""


def machine() -> str:
    """Name of this clone among those of the cluster."""
    return f"{socket.gethostname()[:40].replace('/', '-')}-{digest_text(str(places.home()))[:6]}"


def worker_name() -> str:
    """Name of this process as a worker."""
    return f"{machine()}-{os.getpid()}"


def owner(run: Any) -> str:
    """The worker that took a run last; empty if none did."""
    return str((run.labels or {}).get(LABEL, ""))


def here(run: Any) -> bool:
    """Whether this clone took the run last; every run is ours where nobody else works on the queue."""
    return settings.alone() or owner(run).rpartition("-")[0] == machine()


def online(connection: SyncPrefectClient, pool: str) -> set[str]:
    """Names of the workers that live: none of their last three heartbeats is missing, by the server's clock.

    The server's own look at them comes every 15 s, and so up to 15 s late.
    """
    query = {"workers": {"status": {"any_": ["ONLINE"]}}, "limit": 200}
    where = {"work_pool_name": pool}
    answer = connection.request("POST", "/work_pools/{work_pool_name}/workers/filter", path_params=where, json=query)
    now = parsedate_to_datetime(answer.headers["Date"])
    return {row["name"] for row in answer.json() if lives(row, now)}


def lives(row: dict[str, Any], now: datetime) -> bool:
    """Whether a worker that the server counts as living has sent a heartbeat in time."""
    if not row["last_heartbeat_time"]:
        return False
    seconds = (now - datetime.fromisoformat(row["last_heartbeat_time"])).total_seconds()
    return seconds <= DEAD_HEARTBEATS * float(row["heartbeat_interval_seconds"] or 30)


def starting(run: Any) -> bool:
    """Whether a worker may be taking the run at this moment."""
    return time.time() - float(run.state.timestamp.timestamp()) < STARTING_SECONDS


def return_seconds() -> float:
    """Seconds after the server was away in which no run is taken over: 120 unless the heartbeats were set."""
    return RETURN_HEARTBEATS * float(os.environ.get(HEARTBEAT) or "30")


class Orphans:
    """Finds runs of dead workers. One worker of all does: the first of the living in the order of their names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers_since: float | None = None

    def lost_contact(self) -> None:
        """The server did not answer, so that no worker could send a heartbeat."""
        self.answers_since = None

    def of(self, runs: list[Any], living: set[str], now: float) -> list[Any]:
        """Those of `runs`, active or crashed, whose worker is dead; empty if another worker looks after them."""
        self.answers_since = now if self.answers_since is None else self.answers_since
        if now - self.answers_since < return_seconds() or not living or self.name != min(living):
            return []
        return [run for run in runs if owner(run) not in living and not starting(run)]
