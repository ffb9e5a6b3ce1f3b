"""Outputs and the run-cache over the shared DVC remote, which is DVC's default remote of this clone."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

from flows.runs import places
from flows.runs.places import FlowError, one_line
from tasks.common import paths

PULL = "ARC_DVC_PULL"
"""Environment variable of a run: its stages take what the remote holds instead of computing it."""
NAME = "shared"
"""Name that `arc join --data` gives the remote."""


def configured(folder: Path) -> bool:
    """Whether the clone has a default remote."""
    done = subprocess.run(["dvc", "config", "core.remote"], cwd=folder, capture_output=True, text=True)
    return done.returncode == 0 and bool(done.stdout.strip())


def pull_own(worktree: Path) -> None:
    """Get the tasks of the user's own that DVC tracks in data/own. Raises FlowError."""
    if tracked := [str(path.relative_to(worktree)) for path in sorted((worktree / paths.OWN).glob("*.dvc"))]:
        _run(worktree, "dvc", "pull", "--quiet", *tracked)


def push(worktree: Path) -> None:
    """Push the outputs of the worktree's dvc.lock, and the run-cache without its objects. Raises FlowError."""
    _run(worktree, sys.executable, "-m", "flows.cluster.dvc_remote", "push")


def check(url: str) -> None:
    """Write a file to a remote and remove it; of the default remote if `url` is empty. Raises FlowError."""
    _run(places.home(), sys.executable, "-m", "flows.cluster.dvc_remote", "check", url)


def _run(folder: Path, *command: str) -> None:
    environment = {**os.environ, **places.environment()}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise FlowError(f"DVC's remote: {one_line(lines[-1] if lines else str(done.returncode))}")


def main(what: str, url: str = "") -> None:
    """What needs DVC's own interface, in a process of its own, since DVC keeps much memory."""
    from dvc.repo import Repo

    config = {"core": {"remote": NAME}, "remote": {NAME: {"url": url}}} if url else {}
    with Repo(".", config=config) as repo:
        odb = repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix")
        if what == "push":
            repo.push()
            # DVC's own `push --run-cache` would push the objects of every experiment of this clone too.
            repo.stage_cache.transfer(repo.cache.legacy, odb, force=False)
            return
        if odb.fs.protocol == "local" and not Path(odb.path).is_dir():
            sys.exit(f"{odb.path} is no folder; make or mount it")
        path = odb.fs.join(odb.path, f"arc-check-{uuid.uuid4().hex}")
        odb.fs.makedirs(odb.path, exist_ok=True)
        odb.fs.pipe_file(path, b"check")
        odb.fs.remove(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
