"""One run per GPU: a lock that the kernel releases when the process ends, so that it is never stale.

Every stage that computes takes it, whether started by hand or by the queue, and prints the owner while it waits. The
CPU is shared unless ARC_LOCK_CPU is set.
"""

import fcntl
import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from tasks.common import events, paths
from tasks.common.params import ConfigurationError, resolved
from tasks.common.stage import StageError

POLL_SECONDS = 1.0
_held: dict[Path, int] = {}
"""Open lock files of this process; closing one, or ending the process, releases the lock."""


def take(devices: list[torch.device]) -> torch.device:
    """Wait until one of `devices` is free, take it for the rest of this process and return it."""
    waits: dict[Path, dict[str, Any]] = {}
    while True:
        for device in devices:
            path = lock_file(device)
            if path is None or path in _held:
                return device
            if _try(path):
                events.emit(events.DeviceTaken(device=str(device)))
                print(f"device {device} taken", flush=True)
                return device
            owner = holder(path)
            if owner and waits.get(path) != owner:
                waits[path] = owner
                print(f"waiting for device {device}: {describe(owner)}", flush=True)
        time.sleep(POLL_SECONDS)


def take_all(devices: list[torch.device]) -> None:
    """Wait for each of `devices` in this order, the same in every process, and keep the locks across an exec."""
    for device in devices:
        take([device])
    for number in _held.values():
        os.set_inheritable(number, True)


def lock_file(device: torch.device) -> Path | None:
    """Lock file of a device, shared by all users and checkouts of the machine; None if the device needs no lock."""
    if device.type == "cpu":
        return folder() / "cpu.lock" if os.environ.get("ARC_LOCK_CPU") else None
    identity = torch.cuda.get_device_properties(device).uuid
    return folder() / f"gpu-{identity}.lock"


def folder() -> Path:
    """ARC_LOCKS, or a folder that all users of the machine share."""
    path = Path(os.environ.get("ARC_LOCKS") or Path(tempfile.gettempdir()) / "arc-diffusion-locks")
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
    return path


def holder(path: Path) -> dict[str, Any] | None:
    """Owner of the lock (process, what it runs, folder, start); None if it is free."""
    try:
        number = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = path.read_text()
        unwritten = {"process": "?", "runs": "a stage that starts", "folder": "?", "since": "just now"}
        return dict(json.loads(text)) if text.endswith("}") else unwritten
    else:
        return None
    finally:
        os.close(number)


def describe(owner: dict[str, Any]) -> str:
    """The owner of a lock in one line."""
    return "held by {runs} (process {process} in {folder}) since {since}".format(**owner)


def _try(path: Path) -> bool:
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StageError(
            f"{path} cannot be opened: {error.strerror}; set ARC_LOCKS to a folder that you can write"
        ) from error
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return False
    os.ftruncate(number, 0)
    os.pwrite(number, json.dumps(_self()).encode(), 0)
    _held[path] = number
    return True


def _self() -> dict[str, Any]:
    try:
        experiment = resolved()
        name = f"{experiment.name} seed {experiment.seed}"
    except ConfigurationError:
        name = "an unresolved experiment"
    module = Path(sys.argv[0]).stem
    return {
        "process": os.getpid(),
        "runs": f"stage {module} of {name}",
        "folder": str(paths.PARAMS.resolve().parent),
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
    }
