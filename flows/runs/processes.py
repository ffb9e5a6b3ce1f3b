"""The processes of a run. A process is recognised by its number and its start time together, since numbers return."""

import json
import os
import signal
import time

import psutil

from flows.runs import places
from model.storage.content import write_json

VARIABLE = "ARC_RUN"
"""In the environment of every process of a run: its flow run's id."""
GRACE_SECONDS = 30.0
"""Time for a training to save, between asking and killing."""


def note(run: str, pid: int) -> None:
    """Keep which process runs the flow."""
    folder = places.folder_of(run)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return  # It has ended already; whoever started it tells how.
    write_json(folder / "process.json", {"process": pid, "started": started})


def noted(run: str) -> psutil.Process | None:
    """The noted process of the run, if it still lives and is the same one."""
    path = places.folder_of(run) / "process.json"
    if not path.exists():
        return None
    row = json.loads(path.read_text())
    try:
        process = psutil.Process(row["process"])
        same = abs(process.create_time() - row["started"]) < 0.05 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def living(run: str) -> list[psutil.Process]:
    """Every living process of the run: the noted one, and all that carry the run in their environment."""
    found = [process] if (process := noted(run)) else []
    for process in psutil.process_iter():
        try:
            mine = process.pid != os.getpid() and process.environ().get(VARIABLE) == run
            if mine and process.status() != psutil.STATUS_ZOMBIE and process not in found:
                found.append(process)
        except psutil.Error:
            continue  # Ended meanwhile, or another user's.
    return found


def end(run: str, grace: float = GRACE_SECONDS) -> int:
    """End every process of the run: ask, wait, kill. Returns how many there were."""
    found = living(run)
    for process in found:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while living(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    while left := living(run):
        for process in left:
            _send(process, signal.SIGKILL)
        time.sleep(0.1)
    return len(found)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # Compares start times before it sends.
    except psutil.NoSuchProcess:
        return
