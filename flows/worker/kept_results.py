"""Results on exp/ branches: whether DVC's cache and the MLflow store still hold them; publishing them again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from flows.runs import places, snapshots
from flows.runs.places import FlowError, git, one_line
from flows.worker import hold
from tasks.common import paths
from tasks.common.documents import parse_json, parse_yaml, read_json
from tasks.tracking import mlflow_runs, store


def branches() -> dict[str, str]:
    """The commit of every exp/ branch, by name."""
    lines = git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads/exp/", cwd=places.home())
    return dict(line.rsplit(" ", 1) for line in lines.splitlines())


def lost(commit: str, cache: Path) -> list[str]:
    """Outputs of a kept result whose object in DVC's cache is missing or has another size."""
    lock = parse_yaml(git("show", f"{commit}:dvc.lock", cwd=places.home()), f"dvc.lock of {commit[:8]}")
    outputs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    # published.json is in git, not in the cache.
    cached = [out for out in outputs if out["path"] != str(paths.PUBLISHED)]
    return sorted({out["path"] for out in cached if not _whole(out["md5"], out.get("size"), cache)})


def _whole(md5: str, size: int | None, cache: Path) -> bool:
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    if not path.is_file():
        return False
    if md5.endswith(".dir"):
        return all(_whole(entry["md5"], entry.get("size"), cache) for entry in read_json(path))
    return size is None or path.stat().st_size == size


def key(commit: str) -> str | None:
    """Key under which a kept result was published; None if it never was."""
    try:
        text = git("show", f"{commit}:{paths.PUBLISHED}", cwd=places.home())
    except FlowError:
        return None
    value: Any = parse_json(text.encode(), f"{paths.PUBLISHED} of {commit[:8]}")
    return str(value["key"])


def unpublished() -> dict[str, str]:
    """Branches, with their commits, whose result the MLflow store never held. What was deleted there is left out."""
    place = store.configured_store()
    missing = {}
    for name, commit in branches().items():
        if (published_key := key(commit)) and not mlflow_runs.ever_held(place, published_key):
            missing[name] = commit
    return missing


def lost_by_branch() -> Iterator[tuple[str, list[str]]]:
    """Every branch that lacks objects, and which."""
    cache = hold.cache(places.home())
    for name, commit in branches().items():
        if missing := lost(commit, cache):
            yield name, missing


def publish_all() -> Iterator[tuple[str, bool]]:
    """Publish what the MLflow store lacks, each with the code of its branch. A line and success for each."""
    for name, commit in unpublished().items():
        try:
            yield f"{name}: {_publish(commit)}", True
        except FlowError as error:
            yield f"{name}: not published: {one_line(error)}", False


def _publish(commit: str) -> str:
    run = snapshots.foreground_name(psutil.Process())  # `arc worker` leaves worktrees of living processes alone.
    snapshots.remove(run)
    worktree = snapshots.create_worktree(commit, run)
    try:
        _run(worktree, "dvc", "checkout", "--quiet")
        return _run(worktree, sys.executable, "-m", "tasks.publish", "--if-missing")
    finally:
        snapshots.remove(run)


def _run(folder: Path, *command: str) -> str:
    environment = {**os.environ, **places.environment()}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise FlowError((done.stderr or done.stdout).strip())
    return done.stdout.strip()
