"""A run is frozen when it is submitted: its code becomes a git commit, which runs in a worktree of its own.

The commit holds HEAD, the uncommitted changes of tracked files, and the params.yaml of the request. A ref under
refs/arc/frozen protects it from garbage collection. A finished run leaves dvc.lock and params.yaml on branch exp/NAME.
"""

import configparser
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.runs import places
from flows.runs.places import FlowError, git
from flows.runs.request import Request
from model.storage.digests import digest_text
from tasks.common import paths
from tasks.common.documents import DocumentError, check_folder, read_json
from tasks.common.stage import printable
from tasks.servers import process_identity

FROZEN = "refs/arc/frozen"
BRANCH = "branch"
"""File in the records of a finished run: the name of its branch."""
LONGEST_NAME = 60
"""Maximum number of characters that overrides take in the name of a branch; longer ones end with a digest."""
KEPT_DAYS = 14
"""Days for which an unneeded frozen commit and the records of a run are kept, so that both can be inspected."""


@dataclass(frozen=True)
class Snapshot:
    """A frozen commit, and the untracked files that it does not contain."""

    commit: str
    untracked: tuple[str, ...]

    @property
    def warning(self) -> str | None:
        """A warning about untracked files; None if there are none."""
        if not self.untracked:
            return None
        names = ", ".join(map(printable, self.untracked))
        return f"untracked, so not part of the frozen run: {names}; `git add` what it needs"


def freeze(requests: Sequence[Request], tree: Path, more: Mapping[str, str] | None = None) -> list[Snapshot]:
    """Commit the checkout `tree` as it stands, once with the parameters of each request.

    Changes neither files nor the index. All commits contain the same state of the code, and the texts `more` by file.
    """
    author = identity(tree)
    head = git("rev-parse", "HEAD", cwd=tree)
    state = git("stash", "create", cwd=tree, **author) or head
    others = tuple(filter(None, git("ls-files", "--others", "--exclude-standard", "-z", cwd=tree).split("\0")))
    snapshots = []
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git("read-tree", state, cwd=tree, **index)
        for request in requests:
            for name, text in {str(paths.PARAMS): request.text(tree), **(more or {})}.items():
                stored = git("hash-object", "-w", "--stdin", cwd=tree, stdin=text)
                git("update-index", "--add", "--cacheinfo", f"100644,{stored},{name}", cwd=tree, **index)
            content = git("write-tree", cwd=tree, **index)
            message = f"{request.title}, as submitted"
            commit = git("commit-tree", content, "-p", head, "-m", message, cwd=tree, **author)
            git("update-ref", f"{FROZEN}/{commit}", commit, cwd=tree)
            snapshots.append(Snapshot(commit, others))
    return snapshots


def frozen_commits() -> set[str]:
    """The commits of this checkout that are kept for runs."""
    return set(git("for-each-ref", "--format=%(objectname)", FROZEN, cwd=places.home()).split())


def create_worktree(commit: str, run: str) -> Path:
    """The worktree of the run, created if missing: the frozen code, DVC's shared cache, and data/own."""
    root, folder = places.home(), places.worktree_of(run)
    ready = places.folder_of(run) / "worktree"
    if folder.exists() and ready.exists():
        return folder
    remove(run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    git("worktree", "add", "--detach", "--force", str(folder), commit, cwd=root)
    share_cache(root, folder)
    own = root / paths.OWN
    if own.exists():
        _check_own(own)
        shutil.copytree(own, folder / paths.OWN, dirs_exist_ok=True)
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.write_text(f"{folder}\n")
    return folder


def remove(run: str) -> None:
    """Remove the worktree of a run, even a partial one that a crash left behind."""
    folder = places.worktree_of(run)
    shutil.rmtree(folder, ignore_errors=True)
    (places.folder_of(run) / "worktree").unlink(missing_ok=True)
    git("worktree", "prune", cwd=places.home())


def release(commit: str) -> None:
    """Stop protecting a frozen commit: the branch of a finished run holds it, or an equal one."""
    git("update-ref", "-d", f"{FROZEN}/{commit}", cwd=places.home())


def commit_results(request: Request, worktree: Path) -> str:
    """Commit the lock, parameters and scores of a finished run to the branch exp/NAME. Returns the branch's name.

    `arc restore` restores the experiment from there. Earlier results stay in the branch's history.
    """
    author = identity(worktree)
    # These are not in DVC's cache, so git must restore them.
    files = [name for name in ("dvc.lock", str(paths.PUBLISHED), str(paths.METRICS)) if (worktree / name).exists()]
    git("add", "--force", *files, cwd=worktree)
    content = git("write-tree", cwd=worktree)
    branch = f"exp/{slug(request)}"
    if git("for-each-ref", "--format=%(worktreepath)", f"refs/heads/{branch}", cwd=worktree):
        branch += f"-{int(time.time())}"  # A branch that is checked out elsewhere must not move.
    parents = ["-p", "HEAD"]
    with contextlib.suppress(FlowError):
        before = git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", cwd=worktree)
        if git("rev-parse", f"{before}^{{tree}}", cwd=worktree) == content:
            return branch
        parents += ["-p", before]
    message = "\n".join([request.title, "", *score_lines(worktree)])
    commit = git("commit-tree", content, *parents, cwd=worktree, stdin=message, **author)
    git("update-ref", f"refs/heads/{branch}", commit, cwd=worktree)
    return branch


def score_lines(worktree: Path) -> list[str]:
    """Every score in a checkout, one per line, in percent with its 95 % interval."""
    lines = []
    for path in sorted((worktree / paths.SCORES).glob("*.json")):
        score = read_json(path)
        low, high = score["ci95"]
        lines.append(
            f"{path.stem}: pass@2 {100 * score['pass_at_2']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
            f"{score['grids_solved']} of {score['n_grids']} grids, {score['n_tasks']} tasks"
        )
    return lines


def slug(request: Request) -> str:
    """Name of the git branch of a request, without exp/."""
    name = f"{request.experiment}/seed-{request.seed}"
    chosen = ",".join(sorted(request.overrides))
    text = re.sub(r"[^A-Za-z0-9_.,=+-]+|\.\.+|\.lock$", "-", chosen).strip("-.")
    if len(text) > LONGEST_NAME:
        text = f"{text[: LONGEST_NAME - 10].rstrip('-.,=')}-{digest_text(chosen)[:8]}"
    return f"{name},{text}" if text else name


def remove_unused(needed: Iterable[str], commits: Iterable[str]) -> list[str]:
    """Remove worktrees of runs not in `needed`, their old records, and old frozen commits not in `commits`.

    Returns what it removed."""
    root, kept_runs, kept_commits = places.home(), set(needed) | _foreground_worktrees(), set(commits)
    folder = places.scratch() / "worktrees"
    removed = []
    for path in sorted(folder.iterdir()) if folder.exists() else []:
        if path.name not in kept_runs:
            remove(path.name)
            removed.append(f"worktree {path.name}")
    oldest = time.time() - KEPT_DAYS * 86400
    for line in git("for-each-ref", "--format=%(objectname) %(committerdate:unix)", FROZEN, cwd=root).splitlines():
        commit, when = line.split()
        if commit not in kept_commits and int(when) < oldest:
            git("update-ref", "-d", f"{FROZEN}/{commit}", cwd=root)
            removed.append(f"frozen commit {commit[:8]}")
    records = places.scratch() / "runs"
    for path in sorted(records.iterdir()) if records.exists() else []:
        if path.name not in kept_runs and max(file.stat().st_mtime for file in (path, *path.iterdir())) < oldest:
            shutil.rmtree(path)
            removed.append(f"records {path.name}")
    live = places.scratch() / "live"
    for path in sorted(live.iterdir()) if live.exists() else []:
        if max(file.stat().st_mtime for file in (path, *path.iterdir())) < oldest:
            shutil.rmtree(path)
            removed.append(f"events of training {path.name[:8]}")
    return removed


def foreground_name(process: psutil.Process) -> str:
    """Name of the worktree of an `arc run`, derived from its process."""
    living_identity = process_identity.identity(process.pid)
    return f"now-{process.pid}-{living_identity.ticks if living_identity else 0}"


def _foreground_worktrees() -> set[str]:
    return {foreground_name(process) for process in psutil.process_iter()}


def share_cache(root: Path, folder: Path) -> None:
    """Let the worktree `folder` use the DVC cache of the checkout `root`. Raises FlowError."""
    done = subprocess.run(["dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, env=_env())
    if done.returncode:
        raise FlowError(f"dvc cache dir in {root}: {done.stderr.strip()}")
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / ".dvc" / "config.local")
    if not config.has_section("cache"):
        config.add_section("cache")
    shared = str((root / done.stdout.strip()).resolve())
    quote = "'" if '"' in shared else '"'  # A comma would make it a list, and # would end it.
    config.set("cache", "dir", f"{quote}{shared}{quote}")
    copy = folder / ".dvc" / "config.local"
    copy.touch()
    copy.chmod(0o600)  # It may hold the keys of a remote.
    with copy.open("w") as file:
        config.write(file)


def _check_own(own: Path) -> None:
    try:
        check_folder(own)
    except DocumentError as error:
        raise FlowError(str(error)) from None


def _env() -> dict[str, str]:
    return {**os.environ, **places.environment()}


def identity(tree: Path) -> dict[str, str]:
    """Environment with an author and committer for git if none is configured; else empty."""
    try:
        git("var", "GIT_COMMITTER_IDENT", cwd=tree)
    except FlowError:
        names = {f"GIT_{role}_NAME": "arc" for role in ("AUTHOR", "COMMITTER")}
        return names | {f"GIT_{role}_EMAIL": "arc@localhost" for role in ("AUTHOR", "COMMITTER")}
    return {}
