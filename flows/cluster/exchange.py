"""Code, results and records over the shared git remote.

Frozen commits are refs/arc/frozen/COMMIT there, as in each clone; results are branches exp/NAME; the records of an
ended run are the tree of refs/arc/records/RUN. Whoever can push to the remote can have code executed, and nobody else.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from flows.cluster import settings
from flows.runs import places, snapshots
from flows.runs.places import FlowError, git, one_line

RECORDS = "refs/arc/records"
RECORD_FILES = ("title", "stages.json", "deaths.json", "progress.json", "published.json", "scores")
"""What `arc night` reads of a run."""
RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FETCHED = "fetched"
"""File beside records that came from another clone: their commit."""
GIT_SECONDS = 600.0
MERGES = 5
"""Attempts to push a branch that others push too."""


def remote(*arguments: str) -> str:
    """Run a git command that asks the remote; it never asks for a password. Raises FlowError."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND") or "ssh -oBatchMode=yes"}
    command, environment = ["git", *arguments], {**os.environ, **quiet}
    try:
        done = subprocess.run(
            command, cwd=places.home(), capture_output=True, text=True, env=environment, timeout=GIT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise FlowError(f"{' '.join(command[:3])}: no answer within {GIT_SECONDS:.0f} s") from None
    if done.returncode:
        raise FlowError(
            f"{' '.join(command[:3])}: {one_line(done.stderr or done.stdout or f'exit code {done.returncode}')}"
        )
    return done.stdout.strip()


def share_frozen(commits: Iterable[str]) -> None:
    """Push frozen commits, so that other clones can run them; nothing in a clone that has not joined."""
    name = settings.read().remote
    refs = [f"{snapshots.FROZEN}/{commit}" for commit in dict.fromkeys(commits)]
    if name and refs:
        remote("push", "--quiet", name, *(f"{ref}:{ref}" for ref in refs))


def fetch_frozen() -> None:
    """Get every frozen commit that the remote keeps."""
    name = settings.read().remote
    remote("fetch", "--quiet", "--no-tags", name, f"+{snapshots.FROZEN}/*:{snapshots.FROZEN}/*")


def release(commit: str) -> None:
    """Delete a frozen commit at the remote: the branch of its result holds it."""
    name, ref = settings.read().remote, f"{snapshots.FROZEN}/{commit}"
    if remote("ls-remote", name, ref):
        remote("push", "--quiet", name, f":{ref}")


def push_branch(branch: str) -> None:
    """Push a result; where another clone has pushed one of the same name, both stay in its history."""
    name, ref = settings.read().remote, f"refs/heads/{branch}"
    for attempt in range(MERGES):
        try:
            remote("push", "--quiet", name, f"{ref}:{ref}")
            return
        except FlowError:
            if attempt == MERGES - 1 or not remote("ls-remote", name, ref):
                raise
        remote("fetch", "--quiet", "--no-tags", name, ref)
        _join_histories(branch, git("rev-parse", "FETCH_HEAD", cwd=places.home()))


def _join_histories(branch: str, theirs: str) -> None:
    """Let a branch have the history of `theirs` too; its files stay ours."""
    root = places.home()
    ours = git("rev-parse", f"refs/heads/{branch}", cwd=root)
    message = git("log", "-1", "--format=%B", ours, cwd=root)
    author = snapshots.identity(root)
    parents = ("-p", ours, "-p", theirs)
    commit = git("commit-tree", f"{ours}^{{tree}}", *parents, cwd=root, stdin=message, **author)
    git("update-ref", f"refs/heads/{branch}", commit, ours, cwd=root)


def fetch_branches() -> list[str]:
    """Get the results of other clones. Returns a line for each branch that differs and cannot be moved forward."""
    name = settings.read().remote
    try:
        remote("fetch", "--no-tags", name, "refs/heads/exp/*:refs/heads/exp/*")
    except FlowError as error:
        if "rejected" not in str(error) and "non-fast-forward" not in str(error):
            raise
        return [f"not every exp/ branch follows that of {name}: {one_line(error)}"]
    return []


def push_records(run: str) -> None:
    """Push the records of an ended run."""
    root, folder = places.home(), places.folder_of(run)
    file_names = [name for name in RECORD_FILES if (folder / name).exists()]
    if not file_names:
        return
    where = git("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=root)
    at = ("--git-dir", where, "--work-tree", str(folder))
    with tempfile.TemporaryDirectory() as temporary:
        index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
        git(*at, "add", "--force", "--", *file_names, cwd=folder, **index)
        tree = git(*at, "write-tree", cwd=folder, **index)
    commit = git("commit-tree", tree, "-m", f"records of {run}", cwd=root, **snapshots.identity(root))
    git("update-ref", f"{RECORDS}/{run}", commit, cwd=root)
    remote("push", "--quiet", settings.read().remote, f"+{commit}:{RECORDS}/{run}")


def fetch_records() -> None:
    """Get the records of other clones' runs, where `arc night` reads them; those of this clone's runs stay."""
    root = places.home()
    remote("fetch", "--quiet", "--no-tags", settings.read().remote, f"+{RECORDS}/*:{RECORDS}/*")
    oldest = time.time() - snapshots.KEPT_DAYS * 86400
    lines = git("for-each-ref", "--format=%(refname) %(objectname) %(committerdate:unix)", RECORDS, cwd=root)
    for ref, commit, when in (line.split() for line in lines.splitlines()):
        run = ref.removeprefix(f"{RECORDS}/")
        if int(when) < oldest:
            git("update-ref", "-d", ref, cwd=root)
        elif RUN.fullmatch(run):
            _write_records(run, commit)


def _write_records(run: str, commit: str) -> None:
    folder = places.folder_of(run)
    mark = folder / FETCHED
    if (folder / "stages.json").exists() and not mark.exists():
        return  # It ran here.
    if mark.exists() and mark.read_text() == commit:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
        root = places.home()
        git("read-tree", commit, cwd=root, **index)
        # A link would lead a reader to another file; written as text it leads nowhere.
        plain = ("-c", "core.symlinks=false")
        git(*plain, "checkout-index", "--all", "--force", f"--prefix={folder}/", cwd=root, **index)
    mark.write_text(commit)


def forget_old_records() -> None:
    """Delete records at the remote that are older than `snapshots.KEPT_DAYS`."""
    root, name = places.home(), settings.read().remote
    oldest = time.time() - snapshots.KEPT_DAYS * 86400
    lines = git("for-each-ref", "--format=%(refname) %(committerdate:unix)", RECORDS, cwd=root).splitlines()
    old = [ref for ref, when in (line.split() for line in lines) if int(when) < oldest]
    remote_refs = set(remote("ls-remote", name, f"{RECORDS}/*").split()) if old else set()
    if gone := [ref for ref in old if ref in remote_refs]:
        remote("push", "--quiet", name, *(f":{ref}" for ref in gone))
    for ref in old:
        git("update-ref", "-d", ref, cwd=root)
