"""One run per GPU: a lock that the kernel releases when the process ends, so that it is never stale.

Every stage that computes takes it, whether started by hand or by the queue, and prints the owner while it waits. The
CPU is shared unless ARC_LOCK_CPU is set.
"""

import contextlib
import fcntl
import json
import os
import stat
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from tasks.common import events, paths
from tasks.common.params import resolved
from tasks.common.presets import ConfigurationError
from tasks.common.stage import StageError

POLL_SECONDS = 1.0
FOLDER = "/tmp/arc-diffusion-locks"
"""Not where TMPDIR points: two users, or two shells, would each have their own."""
_OPEN_TO_ALL = 0o1777
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""No link is followed, and opening a FIFO does not wait."""
_RECORD_BYTES = 8192
_UNKNOWN = {"process": "?", "runs": "a stage that starts", "folder": "?", "since": "just now"}
_ELSEWHERE = "set ARC_LOCKS, for every user, to a folder of mode 1777"
_held: dict[Path, int] = {}
"""Open lock files of this process; closing one, or ending the process, releases the lock."""


def take(devices: list[torch.device]) -> torch.device:
    """Wait until one of `devices` is free, take it for the rest of this process and return it.

    One that this process holds is returned at once, whichever others are free.
    """
    waits: dict[Path, dict[str, Any]] = {}
    for device in devices:
        if lock_file(device) in _held:
            return device
    while True:
        for device in devices:
            path = lock_file(device)
            if path is None:
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
    """Wait for each of `devices` in this order, the same in every process."""
    for device in devices:
        take([device])


def take_file(path: Path, resource: str) -> None:
    """Wait until the lock `path` of `resource` is free and take it; the folder must exist."""
    waits: dict[str, Any] | None = None
    while path not in _held and not _try(path):
        owner = holder(path)
        if owner and waits != owner:
            waits = owner
            print(f"waiting for {resource}: {describe(owner)}", flush=True)
        time.sleep(POLL_SECONDS)


def held() -> set[Path]:
    """Lock files that this process holds."""
    return set(_held)


def release_file(path: Path) -> None:
    """Release and remove a lock of `take_file`."""
    path.unlink(missing_ok=True)
    os.close(_held.pop(path))


def keep_across_exec() -> None:
    """Keep the locks that are held when this process is replaced by another program."""
    for number in _held.values():
        os.set_inheritable(number, True)


def lock_file(device: torch.device) -> Path | None:
    """Lock file of a device, shared by all users and checkouts of the machine; None if the device needs no lock."""
    if device.type == "cpu":
        return folder() / "cpu.lock" if os.environ.get("ARC_LOCK_CPU") else None
    identity = torch.cuda.get_device_properties(device).uuid
    return folder() / f"gpu-{identity}.lock"


def folder() -> Path:
    """The folder of the locks, the same for all users and shells of the machine; ARC_LOCKS if set.

    All may write there, and only the owner of a file may delete it. Raises StageError if it is no such folder.
    """
    path = Path(os.environ.get("ARC_LOCKS") or FOLDER)
    try:
        if not os.path.lexists(path):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(_OPEN_TO_ALL)  # mkdir takes off what the umask of this user takes off.
        status = path.lstat()
        unsafe = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
        if unsafe and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            path.chmod(_OPEN_TO_ALL)
            unsafe = False
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; {_ELSEWHERE}") from None
    if unsafe or not stat.S_ISDIR(status.st_mode):
        raise StageError(f"{path} is no folder in which only owners delete their files; {_ELSEWHERE}")
    return path


def holder(path: Path) -> dict[str, Any] | None:
    """Owner of the lock (process, what it runs, folder, start); None if it is free."""
    try:
        number = os.open(path, _FLAGS | os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; {_ELSEWHERE}") from None
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(os.pread(number, _RECORD_BYTES, 0))
    else:
        return None
    finally:
        os.close(number)


def describe(owner: dict[str, Any]) -> str:
    """The owner of a lock in one line."""
    return "held by {runs} (process {process} in {folder}) since {since}".format(**{**_UNKNOWN, **owner})


def _owner(record: bytes) -> dict[str, Any]:
    """What the owner has written; any user may write there, so nothing is taken for granted."""
    try:
        row = json.loads(record)
    except (ValueError, RecursionError):  # Not written yet.
        return dict(_UNKNOWN)
    if not isinstance(row, dict):
        return dict(_UNKNOWN)
    texts = {name: "".join(filter(str.isprintable, str(row.get(name, other)))) for name, other in _UNKNOWN.items()}
    return {**texts, "process": row["process"] if isinstance(row.get("process"), int) else "?"}


def _try(path: Path) -> bool:
    """Take the lock if it is free."""
    number = _open(path)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its user may have deleted the file meanwhile: this lock is nobody else's then; the next poll makes a file.
        if os.fstat(number).st_ino != path.lstat().st_ino:
            raise FileNotFoundError(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(number)
        return False
    # Always as long: truncating would destroy a file that somebody has put here.
    record = json.dumps(_self()).encode()[:_RECORD_BYTES].ljust(_RECORD_BYTES)
    with contextlib.suppress(OSError):  # Another user's file, or a full disk: the lock itself needs no record.
        os.pwrite(number, record, 0)
    _held[path] = number
    return True


def _open(path: Path) -> int:
    """A descriptor of the lock file, created for all users if missing. Raises StageError if it is no plain file."""
    last: OSError | None = None
    # Without O_CREAT first: the kernel may refuse it for another user's file in a folder like this.
    for flags, mode in ((os.O_RDWR, 0), (os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), (os.O_RDWR, 0), (os.O_RDONLY, 0)):
        try:
            number = os.open(path, _FLAGS | flags, mode)
        except OSError as error:
            last = error
            continue
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(number)
            raise StageError(f"{path} is no plain file of its own; remove it, or {_ELSEWHERE}")
        if status.st_uid == os.geteuid():
            os.fchmod(number, 0o666)
        return number
    assert last
    raise StageError(f"{path} cannot be opened: {last.strerror}; remove it, or {_ELSEWHERE}") from last


def _self() -> dict[str, Any]:
    try:
        experiment = resolved()
        name = f"{experiment.title} seed {experiment.seed}"
    except ConfigurationError:
        name = "an unresolved experiment"
    module = Path(sys.argv[0]).stem
    return {
        "process": os.getpid(),
        "runs": f"stage {module} of {name}"[:300],
        "folder": str(paths.PARAMS.resolve().parent)[-400:],
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
    }
