"""Names, dates and messages of what is frozen and kept, in a repository of one commit; DVC is made up."""

import configparser
import json
import os
import time
from pathlib import Path

import pytest

from flows.runs import places, snapshots
from flows.runs.places import FlowError, git
from flows.runs.request import Request
from model.storage.digests import digest_text
from tasks.common import paths

NAMES = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose only file is code.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "-q", "-b", "main")
    (tmp_path / "code.py").write_text("code\n")
    git("add", "code.py")
    git("commit", "-qm", "start", **NAMES)
    return tmp_path


@pytest.fixture
def dvc(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that stands in for DVC; it says that the cache is in `shared`."""
    script = tree / "bin" / "dvc"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\n[ "$*" = "cache dir" ] && echo shared\n')
    script.chmod(0o755)
    monkeypatch.setattr(places, "environment", lambda: {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"})
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return script


def frozen(days: float, text: str) -> str:
    """A frozen commit of so many days ago."""
    date = f"{int(time.time() - days * 86400)} +0000"
    commit = git("commit-tree", "HEAD^{tree}", "-m", text, **NAMES, GIT_COMMITTER_DATE=date)
    git("update-ref", f"{snapshots.FROZEN}/{commit}", commit)
    return commit


def test_a_frozen_commit_is_kept_for_two_weeks_or_while_a_run_needs_it(tree: Path) -> None:
    minute = 1 / 1440
    old, needed, young = frozen(14 + minute, "old"), frozen(14 + minute, "needed"), frozen(14 - 5 * minute, "young")
    older = frozen(400, "older")
    assert snapshots.frozen_commits() == {old, needed, young, older}
    for name, days in (("old", 14 + minute), ("young", 14 - 5 * minute)):
        (tree / ".scratch" / "runs" / name).mkdir(parents=True)
        os.utime(tree / ".scratch" / "runs" / name, (time.time() - days * 86400,) * 2)
    gone = {f"frozen commit {old[:8]}", f"frozen commit {older[:8]}"}
    *commits, records = snapshots.remove_unused([], iter([needed]))
    assert set(commits) == gone
    assert records == "records old"
    assert snapshots.frozen_commits() == {needed, young}
    snapshots.release(young)
    assert snapshots.frozen_commits() == {needed}
    assert snapshots.remove_unused([], []) == [f"frozen commit {needed[:8]}"]


def test_nothing_is_removed_where_nothing_ran(tree: Path) -> None:
    assert snapshots.remove_unused([], []) == []


def test_scores_are_lines_of_per_cent(tmp_path: Path) -> None:
    assert snapshots.score_lines(tmp_path) == []
    folder = tmp_path / paths.SCORES
    folder.mkdir(parents=True)
    row = {"pass_at_2": 0.123, "ci95": [0.0456, 0.789], "grids_solved": 7, "n_grids": 12, "n_tasks": 9}
    (folder / "last-votes.json").write_text(json.dumps(row))
    (folder / "best-votes.json").write_text(json.dumps({**row, "pass_at_2": 1.0, "ci95": [0.9, 1.0]}))
    (folder / "notes.txt").write_text("no score")
    assert snapshots.score_lines(tmp_path) == [
        "best-votes: pass@2 100.0 % [90.0, 100.0], 7 of 12 grids, 9 tasks",
        "last-votes: pass@2 12.3 % [4.6, 78.9], 7 of 12 grids, 9 tasks",
    ]


def test_a_worktree_shares_the_cache_and_keeps_the_checkouts_other_settings(tree: Path, dvc: Path) -> None:
    folder = tree / "worktree"
    for place in (tree, folder):
        (place / ".dvc").mkdir(parents=True)
    for before in ("", "[core]\nremote = ours%d\n[cache]\ntype = symlink\ndir = elsewhere\n"):
        (tree / ".dvc" / "config.local").write_text(before)
        snapshots.share_cache(tree, folder)
        made = configparser.ConfigParser(interpolation=None)
        made.read(folder / ".dvc" / "config.local")
        assert made["cache"]["dir"] == f'"{tree / "shared"}"'
        assert (folder / ".dvc" / "config.local").stat().st_mode & 0o777 == 0o600, "it may hold the keys of a remote"
        assert made.has_option("cache", "type") == made.has_option("core", "remote") == bool(before)
    assert made["core"]["remote"] == "ours%d"
    dvc.write_text("#!/bin/sh\necho '  no config ' >&2\nexit 1\n")
    with pytest.raises(FlowError) as refused:
        snapshots.share_cache(tree, folder)
    assert str(refused.value) == f"dvc cache dir in {tree}: no config"


def test_what_dvc_would_wait_for_is_copied_into_no_worktree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "share_cache", lambda *_: None)
    own = tree / paths.OWN
    own.mkdir(parents=True)
    (own / "mine.json").write_text("{}")
    folder = snapshots.create_worktree("HEAD", "a run")
    assert (folder / paths.OWN / "mine.json").read_text() == "{}"
    ready = tree / ".scratch" / "runs" / "a run" / "worktree"
    assert ready.read_text() == f"{folder}\n"
    (folder / "code.py").unlink()
    assert not (snapshots.create_worktree("HEAD", "a run") / "code.py").exists(), "it is ready, so nothing is done"
    ready.unlink()
    assert (snapshots.create_worktree("HEAD", "a run") / "code.py").exists(), "it was half made"
    snapshots.remove("a run")
    assert not folder.exists()
    assert not ready.exists()
    assert "a run" not in git("worktree", "list")
    os.mkfifo(own / "pipe")
    with pytest.raises(FlowError, match="pipe"):
        snapshots.create_worktree("HEAD", "a run")
    assert not ready.exists(), "it is half made"


def test_a_snapshot_warns_of_the_files_that_it_lacks() -> None:
    assert snapshots.Snapshot("c", ()).warning is None
    said = "untracked, so not part of the frozen run: a.py, b.py; `git add` what it needs"
    assert snapshots.Snapshot("c", ("a.py", "b.py")).warning == said


def asked(*overrides: str) -> Request:
    """Unchecked: names are made of whatever it says."""
    return Request.model_construct(version="v3", size="tiny", dataset="aa1", seed=7, overrides=list(overrides))


def test_the_name_of_a_branch_fits_git_and_a_line() -> None:
    assert snapshots.slug(asked()) == "v3/tiny/aa1/seed-7"
    two = asked("train.batch=9", "select.steps=[1, 2]")
    assert snapshots.slug(two) == "v3/tiny/aa1/seed-7,select.steps=-1,-2-,train.batch=9"
    longest = "x" * 60
    assert snapshots.slug(asked(longest)) == f"v3/tiny/aa1/seed-7,{longest}"
    longer = "x" * 49 + "=" + "y" * 11
    assert snapshots.slug(asked(longer)) == f"v3/tiny/aa1/seed-7,{'x' * 49}-{digest_text(longer)[:8]}"
    plain = "ab" * 31
    assert snapshots.slug(asked(plain)) == f"v3/tiny/aa1/seed-7,{'ab' * 25}-{digest_text(plain)[:8]}"
    assert snapshots.slug(asked("a=..lock.lock")) == "v3/tiny/aa1/seed-7,a=-lock"


def test_the_author_is_gits_or_arc(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NAMES.items():
        monkeypatch.setenv(name, value)
    assert snapshots.identity(tree) == {}
    for name in NAMES:
        monkeypatch.delenv(name)
    git("config", "user.useConfigOnly", "true")
    assert snapshots.identity(tree) == {name: "arc" if name.endswith("NAME") else "arc@localhost" for name in NAMES}
