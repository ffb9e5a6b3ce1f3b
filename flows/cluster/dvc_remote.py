"""Outputs and the run-cache over the shared DVC remote, which is DVC's default remote of this clone."""

import os
import subprocess
import sys
import uuid
from functools import cache
from pathlib import Path

from flows.runs import places
from flows.runs.places import FlowError, one_line

PULL = "ARC_DVC_PULL"
"""Environment variable of a run: its stages take what the remote holds instead of computing it."""
SAVES = "ARC_SHARE_SAVES"
"""Environment variable of a run: minutes between two saves of a training that go to the remote; none if unset."""
PUSH_SECONDS = 3600.0
"""In which all outputs of a run can be pushed."""
AWAY_SECONDS = 60.0
"""In which a remote answers that is not away."""
REMOTE_NAME = "shared"
"""Name that `arc join --data` gives the remote."""


def save_seconds() -> float | None:
    """Seconds between two shared saves; None where none are shared. Raises FlowError."""
    text = os.environ.get(SAVES)
    return 60 * minutes(text) if text else None


def minutes(text: str) -> float:
    """The time between two shared saves, as a user gives it. Raises FlowError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise FlowError(f"the minutes between two shared saves are {text[:40]!r}; allowed is a number above 0")
    return value


def configured(folder: Path) -> bool:
    """Whether the clone has a default remote."""
    done = subprocess.run(["dvc", "config", "core.remote"], cwd=folder, capture_output=True, text=True)
    return done.returncode == 0 and bool(done.stdout.strip())


def push(worktree: Path) -> None:
    """Push the outputs of the worktree's dvc.lock, and the run-cache without its objects. Raises FlowError."""
    _run(worktree, sys.executable, "-m", "flows.cluster.dvc_remote", "push")


def check(url: str) -> None:
    """Write a file to a remote and remove it; of the default remote if `url` is empty. Raises FlowError."""
    _run(places.home(), sys.executable, "-m", "flows.cluster.dvc_remote", "check", url)


def away() -> str:
    """Why the remote cannot be read now; empty if it can."""
    folder = _folder()
    if folder:  # DVC would take two seconds of a core for it.
        try:
            # In a process, since a mount whose server is gone does not answer.
            exists = subprocess.run(["test", "-d", folder], timeout=AWAY_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            return f"DVC's remote: no answer from {folder} within {AWAY_SECONDS:.0f} s"
        return "" if exists else f"DVC's remote: {folder} is no folder; make or mount it"
    try:
        _run(places.home(), sys.executable, "-m", "flows.cluster.dvc_remote", "away", seconds=AWAY_SECONDS)
    except FlowError as error:
        return str(error)
    return ""


@cache
def _folder() -> str:
    """The default remote of this clone where it is an absolute path; empty where it is anything else."""
    url = ""
    for option in ("core.remote", "remote.{}.url"):
        command = ["dvc", "config", option.format(url)]
        url = subprocess.run(command, cwd=places.home(), capture_output=True, text=True).stdout.strip()
    return url if url.startswith("/") else ""


def _run(folder: Path, *command: str, seconds: float = PUSH_SECONDS) -> None:
    environment = {**os.environ, **places.environment()}
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise FlowError(f"DVC's remote: no answer within {seconds:.0f} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FlowError(f"DVC's remote: {one_line(lines[-1] if lines else str(done.returncode))}")


def main(action: str, url: str = "") -> None:
    """What needs DVC's own interface, in a process of its own, since DVC keeps much memory."""
    from flows.cluster.remote_store import RemoteStore

    try:
        store = RemoteStore(REMOTE_NAME, url)
        if action == "push":
            store.push()
            return
        if why := store.away():
            sys.exit(why)
    except FlowError as error:
        sys.exit(str(error))
    if action == "away":
        return
    path = store.fs.join(store.path, f"arc-check-{uuid.uuid4().hex}")
    store.fs.makedirs(store.path, exist_ok=True)
    store.fs.pipe_file(path, b"check")
    store.fs.remove(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
