"""What a run leaves goes to the other machines: outputs to the DVC remote, its branch and its records to git."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from flows.cluster import dvc_remote, exchange, settings
from flows.runs import places, snapshots
from flows.runs.places import FlowError, one_line

UNSHARED = "unshared"
"""File in the records of a run that is still to be shared."""
_sharing = threading.Lock()
"""Held by the thread that shares: the worktree of a run goes once one has."""


def mark(run: str) -> None:
    """Remember that a run is to be shared; nothing in a clone that has not joined."""
    if settings.joined():
        places.folder_of(run).mkdir(parents=True, exist_ok=True)
        (places.folder_of(run) / UNSHARED).touch()


def try_all(wait: bool = True) -> Iterator[str]:
    """Share every run that still is to be. Returns a line for each that cannot be yet.

    Where another thread does so, this waits for it, or leaves it to that one unless `wait`.
    """
    if not settings.joined() or not _sharing.acquire(blocking=wait):
        return
    try:
        yield from _try_all()
    finally:
        _sharing.release()


def _try_all() -> Iterator[str]:
    for path in sorted((places.scratch() / "runs").glob(f"*/{UNSHARED}")):
        try:
            share(path.parent.name)
            path.unlink()
        except FlowError as error:
            yield f"run {path.parent.name[:8]} is not shared yet: {one_line(error)}"


def share(run: str) -> None:
    """Push the outputs and the branch of a finished run, and the records of any. Raises FlowError."""
    named = places.folder_of(run) / snapshots.BRANCH
    if named.exists():
        branch = named.read_text().strip()
        if dvc_remote.configured(places.home()):
            _push_outputs(run, branch)
        exchange.push_branch(branch)
    exchange.push_records(run)


def _push_outputs(run: str, branch: str) -> None:
    worktree = places.worktree_of(run)
    if worktree.exists():
        dvc_remote.push(worktree)
        return
    name = f"{run}-share"
    try:
        dvc_remote.push(snapshots.create_worktree(f"refs/heads/{branch}", name))
    finally:
        snapshots.remove(name)


def receive() -> list[str]:
    """Get branches and records of other machines. Returns a line for each thing that could not be had."""
    if not settings.joined():
        return []
    try:
        exchange.fetch_records()
        return exchange.fetch_branches()
    except FlowError as error:
        return [f"without the latest results of other machines: {one_line(error)}"]


def engine(module: str) -> list[str]:
    """The command that runs a flow here."""
    tied = ["-m", "flows.cluster.tied", module] if not settings.alone() else ["-m", module]
    return [sys.executable, *tied]


def variables() -> dict[str, str]:
    """Environment variables of a run, by which it shares its stages with other machines."""
    if not (settings.joined() and dvc_remote.configured(places.home())):
        return {}
    minutes = os.environ.get(dvc_remote.SAVES) or settings.read().saves
    return {dvc_remote.PULL: "1", **({dvc_remote.SAVES: minutes} if minutes else {})}


def own_files_missing(tree: Path) -> list[str]:
    """Files in data/own that other machines lack: neither git nor DVC tracks them."""
    command = ["git", "ls-files", "--others", "-z", "data/own"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env={**os.environ})
    names = [name for name in done.stdout.split("\0") if name]
    return [name for name in names if not (tree / f"{name}.dvc").exists() and not name.endswith(".dvc")]
