"""The processes of a run: which they are, and how to end them."""

import os
import signal
import time

import psutil

from flows.runs import places, records
from flows.runs.places import FlowError
from model.storage.atomic import write_json
from tasks.files.live import RUN_VARIABLE
from tasks.servers import process_identity
from tasks.servers.process_identity import Identity

GRACE_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL, in which a training saves."""
KILL_SECONDS = 30.0
"""Seconds in which a process ends after SIGKILL, unless it waits for hardware."""


def record(run: str, pid: int) -> None:
    """Write down which process runs the flow; nothing if it has ended already, since its parent reports how."""
    if identity := process_identity.identity(pid):
        folder = places.folder_of(run)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "process.json", identity.model_dump())


def recorded(run: str) -> psutil.Process | None:
    """The recorded process of the run; None if it has ended or its PID now belongs to another process."""
    path = places.folder_of(run) / "process.json"
    identity = records.read(path, Identity | None, None)
    return process_identity.find(identity) if identity else None


def living(run: str) -> list[psutil.Process]:
    """Every living process of the run: the recorded one, and all whose environment names the run."""
    alive = [process] if (process := recorded(run)) else []
    for process in psutil.process_iter():
        try:
            mine = process.pid != os.getpid() and process.environ().get(RUN_VARIABLE) == run
            if mine and process.status() != psutil.STATUS_ZOMBIE and process not in alive:
                alive.append(process)
        except psutil.Error:
            continue  # It has ended meanwhile, or belongs to another user.
    return alive


def end(run: str, grace: float = GRACE_SECONDS) -> int:
    """End every process of the run: SIGTERM, up to `grace` seconds of waiting, SIGKILL. Returns their number.

    Raises FlowError if one lives on, as it does while a driver or a network disk hangs.
    """
    ended = living(run)
    for process in ended:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while living(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    deadline = time.monotonic() + KILL_SECONDS
    while left := living(run):
        if time.monotonic() > deadline:
            names = ", ".join(str(process.pid) for process in left)
            raise FlowError(
                f"process {names} of run {run} outlives SIGKILL: it waits for hardware, such as a GPU driver or a "
                "network disk; only that, or a reboot, ends it"
            )
        for process in left:
            _send(process, signal.SIGKILL)
        time.sleep(0.1)
    return len(ended)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil compares start ticks before it sends.
    except psutil.NoSuchProcess:
        return
