"""The processes of a run: which they are, and how to end them."""

import os
import signal
import time

import psutil

from flows.runs import places, process_identity, records
from flows.runs.process_identity import Identity
from model.storage.atomic import write_json

RUN_VARIABLE = "ARC_RUN"
"""Environment variable that every process of a run carries: the id of its flow run."""
GRACE_SECONDS = 30.0
"""Seconds between SIGTERM and SIGKILL, in which a training saves."""


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
    """End every process of the run: SIGTERM, up to `grace` seconds of waiting, SIGKILL. Returns their number."""
    ended = living(run)
    for process in ended:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while living(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    while left := living(run):
        for process in left:
            _send(process, signal.SIGKILL)
        time.sleep(0.1)
    return len(ended)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil compares start ticks before it sends.
    except psutil.NoSuchProcess:
        return
