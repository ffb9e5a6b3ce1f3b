"""The worker holds the queue while something is short: space, memory, a GPU, the DVC remote. It goes on by itself.

Else each waiting run would fail within seconds, and the queue would be gone. Running experiments are left alone; one
that ends with a full disk is resumed. The pool's description and the state `Held` of the waiting runs say why.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import State, StateType
from prefect.states import Scheduled

from flows.cluster import dvc_remote, settings
from flows.queue import deployment, flow_runs
from flows.runs import places
from flows.runs.places import FlowError

LIMIT_VARIABLE = "ARC_HOLD_GIB"
"""Environment variable: free GiB on each disk below which no run starts; 2 if it is unset."""
MEMORY_GIB = 1.0
RELEASE = 1.2
"""The queue goes on at this multiple of a limit, so that it does not stop again at once."""
GPU_SECONDS = 30.0
"""Between two looks at the GPUs, and at runs that were queued meanwhile."""
REMOTE_SECONDS, AWAY_SECONDS = 60.0, 15.0
"""Between two looks at the DVC remote of a cluster, while it is there and while it is away."""
STATE = "Held"
HELD = f"{STATE}: "
"""Begins the pool's description while the queue is held."""


def limit_gib() -> float:
    """Free GiB below which a disk is too full. Raises FlowError."""
    text = os.environ.get(LIMIT_VARIABLE) or "2"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise FlowError(f"{LIMIT_VARIABLE} is {text[:40]!r}; allowed is a number of GiB, from 0 on")
    return value


def folders() -> dict[str, Path]:
    """Where runs write, by name: the first of each file system only, so that each is reported once."""
    root = places.home()
    named = {
        "results and databases": root,
        "DVC's cache": cache(root),
        "scratch": places.scratch(),
        "resume states": places.scratch() / "train",
        "Prefect's database": Path(places.environment()["PREFECT_HOME"]),
        "temporary files": Path(tempfile.gettempdir()),
    }
    devices: dict[int, str] = {}
    for name, path in named.items():
        if path.exists():
            devices.setdefault(path.stat().st_dev, name)
    return {name: named[name] for name in devices.values()}


def cache(root: Path) -> Path:
    """DVC's cache of a checkout. Raises FlowError with DVC's message."""
    done = subprocess.run(["dvc", "cache", "dir"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise FlowError(f"dvc cache dir in {root}: {done.stderr.strip()}")
    return (root / done.stdout.strip()).resolve()


def gpus() -> int:
    """GPUs that answer; 0 without a driver."""
    if not shutil.which("nvidia-smi"):
        return 0
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return 0
    return done.stdout.count("GPU ") if done.returncode == 0 else 0


class Hold:
    """Whether the queue is held, and why."""

    def __init__(self) -> None:
        self.folders, self.gpus, self.limit = folders(), gpus(), limit_gib()
        self.reason = ""
        """What is short; empty while nothing is."""
        self.reported: str | None = None
        """What the pool's page shows: `Held: ` with the reason, or empty while the queue goes on.

        None while that is unknown: before the first report, and after one that did not reach the server.
        """
        self.log: list[str] = []
        """Lines that `check` has still to return: it did not where the server was away."""
        self.looked = 0.0
        self.missing = ""
        self.shares = settings.joined() and dvc_remote.configured(places.home())
        self.next_look = 0.0
        self.away = ""
        """Why the DVC remote cannot be read."""

    def shortage(self) -> str:
        """What is short now, with its limit; empty if nothing is."""
        factor = RELEASE if self.reason else 1.0
        for name, path in self.folders.items():
            free = shutil.disk_usage(path).free / 2**30
            if free < factor * self.limit:
                return f"{free:.2f} GiB free at {path} ({name}); it goes on from {RELEASE * self.limit:.2f} GiB"
        memory = psutil.virtual_memory().available / 2**30
        if memory < factor * MEMORY_GIB:
            return f"{memory:.2f} GiB of memory available; it goes on from {RELEASE * MEMORY_GIB:.2f} GiB"
        if self.gpus and time.monotonic() - self.looked > GPU_SECONDS:
            answering, self.looked = gpus(), time.monotonic()
            self.missing = f"{answering} of {self.gpus} GPUs answer nvidia-smi" if answering < self.gpus else ""
        if self.shares and time.monotonic() >= self.next_look:
            self.away = dvc_remote.away()
            self.next_look = time.monotonic() + (AWAY_SECONDS if self.away else REMOTE_SECONDS)
        return self.missing or self.away

    def check_here(self) -> list[str]:
        """Look, and tell no other machine of the cluster. Returns log lines."""
        before, self.reason = self.reason, self.shortage()
        if bool(before) == bool(self.reason):
            return []
        return [f"this machine takes no runs: {self.reason}" if self.reason else "this machine takes runs again"]

    def check(self, connection: SyncPrefectClient) -> list[str]:
        """Look, and tell the page where something changed. Returns log lines."""
        before, self.reason = self.reason, self.shortage()
        if bool(before) != bool(self.reason):
            self.log.append(f"the queue is held: {self.reason}" if self.reason else "the queue goes on")
        # Free space changes with every look; the page gets it when it is held or goes on.
        message = HELD + self.reason if self.reason else ""
        if self.reported is None or bool(message) != bool(self.reported):
            self.reported = None  # If the server refuses, the next look tries again.
            description = message or deployment.DESCRIPTION
            connection.update_work_pool(deployment.POOL, WorkPoolUpdate(description=description))
            show(connection, message, flow_runs.runs(connection, StateType.SCHEDULED))
            self.reported = message
        log, self.log = self.log, []
        return log


def show(connection: SyncPrefectClient, why: str, runs: Iterable[Any]) -> None:
    """Give the waiting runs the state `Held` with the reason, or take it away where `why` is empty."""
    for run in runs:
        start = run.next_scheduled_start_time or run.expected_start_time
        if bool(why) == (run.state.name == STATE) or start is None or start > datetime.now(UTC):
            continue
        present = connection.read_flow_run(run.id).state
        if present is None or present.id != run.state.id:
            continue  # It was cancelled or taken since it was listed.
        state: State[Any] = Scheduled(scheduled_time=start, name=STATE if why else "Scheduled", message=why or None)
        connection.set_flow_run_state(run.id, state, force=True)
