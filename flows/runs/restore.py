"""`arc restore`: a finished result with its files, in a worktree of its own; the checkout stays as it is."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from flows.runs import places, snapshots
from flows.runs.places import FlowError, git, one_line
from tasks.common.presets import nearest

LOCK = "dvc.lock"


def restore(name: str, to: Path | None = None) -> Path:
    """Check out the result `name` with its files in the new worktree `to`. Returns the folder.

    `name` is a branch exp/NAME, also without exp/, an experiment of `dvc exp show`, or a commit; `to` is by default a
    folder in scratch. Raises FlowError, and then leaves no worktree.
    """
    root = places.home()
    commit = commit_of(name)
    if not git("ls-tree", "--name-only", commit, LOCK, cwd=root):
        raise FlowError(f"{name} (commit {commit[:9]}) has no {LOCK}, so it names no files; give a branch exp/NAME")
    folder = (to or places.scratch() / "restored" / re.sub(r"[^\w.,=+-]+", "-", name.removeprefix("exp/"))).absolute()
    if folder.exists():
        raise FlowError(f"{folder} exists; `git worktree remove --force {folder}` removes it, or choose another --to")
    git("worktree", "add", "--detach", str(folder), commit, cwd=root)
    try:
        snapshots.share_cache(root, folder)
        environment = {**os.environ, **places.environment()}
        done = subprocess.run(["dvc", "checkout"], cwd=folder, capture_output=True, text=True, env=environment)
        # What another machine computed is in the remote, if there is one.
        remote = ["dvc", "config", "core.remote"]
        if done.returncode and not subprocess.run(remote, cwd=folder, capture_output=True).returncode:
            done = subprocess.run(["dvc", "pull"], cwd=folder, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise FlowError(
                f"{name}: not all of its files are in DVC's cache; fetch them with `dvc pull` from the remote that has "
                f"them, or run the experiment again. DVC says: {one_line(done.stderr)}"
            )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        git("worktree", "prune", cwd=root)
        raise
    return folder


def commit_of(name: str) -> str:
    """The commit of a branch, an experiment of DVC's or a revision. Raises FlowError with the nearest known name."""
    root = places.home()
    refs = [
        line.split(" ", 1) for line in git("for-each-ref", "--format=%(objectname) %(refname)", cwd=root).split("\n")
    ]
    commits = {ref.removeprefix("refs/heads/"): commit for commit, ref in refs if ref.startswith("refs/heads/exp/")}
    # DVC keeps an experiment as refs/exps/AB/CDEF.../NAME; those in exec, stash and celery are its own.
    parts = [(commit, ref.split("/")) for commit, ref in refs if re.match(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/", ref)]
    commits |= {"/".join(ref[4:]): commit for commit, ref in parts}
    for candidate in (f"exp/{name}", name):
        if candidate in commits:
            return commits[candidate]
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", cwd=root)
    except FlowError:
        close = nearest(name, commits) or nearest(f"exp/{name}", commits)
        raise FlowError(
            f"no result {name!r}{close}; `git branch --list 'exp/*'` and `dvc exp list` show what there is"
        ) from None
