import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from flows.runs import places, snapshots
from flows.runs.places import git
from flows.runs.request import Request
from tests.conftest import ROOT

REQUEST = Request(version="v3", size="tiny", dataset="aa1-6x6", seed=7)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a committed, a changed, a staged and an untracked file."""
    monkeypatch.chdir(tmp_path)
    for name in ("ARC_HOME", "ARC_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "-q", "-b", "main", cwd=tmp_path)
    (tmp_path / ".gitignore").write_text(".scratch/\ndata/\n")
    for name in ("presets.yaml", "params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text())
    (tmp_path / "code.py").write_text("old\n")
    git("add", "-A", cwd=tmp_path)
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start", cwd=tmp_path)
    (tmp_path / "code.py").write_text("changed\n")
    (tmp_path / "staged.py").write_text("staged\n")
    git("add", "staged.py", cwd=tmp_path)
    (tmp_path / "untracked.py").write_text("untracked\n")
    return tmp_path


def test_the_code_is_frozen_and_the_checkout_untouched(tree: Path) -> None:
    before = git("status", "--porcelain", cwd=tree)
    [snapshot] = snapshots.freeze([REQUEST], tree)
    (tree / "code.py").write_text("edited after submitting\n")
    assert git("show", f"{snapshot.commit}:code.py", cwd=tree) == "changed"
    assert git("show", f"{snapshot.commit}:staged.py", cwd=tree) == "staged"
    assert "seed: 7" in git("show", f"{snapshot.commit}:params.yaml", cwd=tree)
    assert git("rev-parse", f"{snapshot.commit}^", cwd=tree) == git("rev-parse", "HEAD", cwd=tree)
    assert snapshot.untracked == ("untracked.py",)
    assert "untracked.py" in (snapshot.warning or "")
    assert git("status", "--porcelain", cwd=tree) == before
    assert git("stash", "list", cwd=tree) == ""


def test_untracked_files_are_named_as_they_are(tree: Path) -> None:
    for name in (" ü ntracked.txt", "esc\x1b[2J.txt", os.fsdecode(b"\xff.txt")):
        (tree / name).touch()
    [snapshot] = snapshots.freeze([REQUEST], tree)
    warning = snapshot.warning or ""
    assert "run: ü ntracked.txt, esc" in warning.replace("  ", " ")
    assert "esc\\x1b[2J.txt, untracked.py, \\udcff.txt; `git add`" in warning


def test_a_frozen_commit_survives_garbage_collection(tree: Path) -> None:
    [snapshot] = snapshots.freeze([REQUEST], tree)
    git("gc", "--prune=now", "-q", cwd=tree)
    assert git("cat-file", "-t", snapshot.commit, cwd=tree) == "commit"


def test_the_worktree_is_the_frozen_code_and_shares_the_cache(tree: Path) -> None:
    (tree / "data" / "own").mkdir(parents=True)
    (tree / "data" / "own" / "mine.json").write_text("{}")
    [snapshot] = snapshots.freeze([REQUEST], tree)
    (tree / "code.py").write_text("edited after submitting\n")
    folder = snapshots.create_worktree(snapshot.commit, "run-1")
    assert (folder / "code.py").read_text() == "changed\n"
    assert (folder / "data" / "own" / "mine.json").exists()
    assert not (folder / "untracked.py").exists()
    assert str(tree / ".dvc" / "cache") in (folder / ".dvc" / "config.local").read_text()
    assert snapshots.create_worktree(snapshot.commit, "run-1") == folder


@pytest.mark.slow
def test_a_half_made_worktree_is_made_again(tree: Path) -> None:
    [snapshot] = snapshots.freeze([REQUEST], tree)
    folder = snapshots.create_worktree(snapshot.commit, "run-1")
    (places.folder_of("run-1") / "worktree").unlink()  # As if killed in between.
    (folder / "code.py").unlink()
    assert (snapshots.create_worktree(snapshot.commit, "run-1") / "code.py").exists()


def test_results_are_kept_on_a_branch_with_all_that_it_held(tree: Path) -> None:
    [snapshot] = snapshots.freeze([REQUEST], tree)
    folder = snapshots.create_worktree(snapshot.commit, "run-1")
    (folder / "dvc.lock").write_text("first\n")
    branch = snapshots.commit_results(REQUEST, folder)
    first = git("rev-parse", branch, cwd=tree)
    assert branch == "exp/v3/tiny/aa1-6x6/seed-7"
    assert git("show", f"{branch}:dvc.lock", cwd=tree) == "first"
    assert snapshots.commit_results(REQUEST, folder) == branch
    assert git("rev-parse", branch, cwd=tree) == first, "the same result is not kept twice"
    (folder / "dvc.lock").write_text("second\n")
    snapshots.commit_results(REQUEST, folder)
    assert git("show", f"{branch}:dvc.lock", cwd=tree) == "second"
    assert first in git("rev-list", branch, cwd=tree).splitlines()
    git("worktree", "add", "-q", str(tree / ".scratch" / "mine"), branch, cwd=tree)
    (folder / "dvc.lock").write_text("third\n")
    assert snapshots.commit_results(REQUEST, folder) != branch, "a branch that somebody has checked out is not moved"


@pytest.mark.slow
def test_cleaning_removes_what_no_run_needs(tree: Path) -> None:
    [snapshot] = snapshots.freeze([REQUEST], tree)
    kept, gone = snapshots.create_worktree(snapshot.commit, "kept"), snapshots.create_worktree(snapshot.commit, "gone")
    assert snapshots.remove_unused(["kept"], []) == ["worktree gone"]
    assert kept.exists()
    assert not gone.exists()
    assert "gone" not in git("worktree", "list", cwd=tree)
    assert git("cat-file", "-t", snapshot.commit, cwd=tree) == "commit", "young enough to be looked at"


def test_the_worktree_of_a_living_arc_run_is_kept_and_a_dead_ones_is_removed(tree: Path) -> None:
    mine = snapshots.foreground_name(psutil.Process())
    pid, ticks = mine.split("-")[1:]
    dead = f"now-{pid}-{int(ticks) + 1}"  # Its PID was given to another process.
    for name in (mine, dead, "queued", "ended"):
        (places.worktree_of(name) / "data").mkdir(parents=True)
    assert snapshots.remove_unused(["queued"], []) == ["worktree ended", f"worktree {dead}"]
    left = {path.name for path in (places.scratch() / "worktrees").iterdir()}
    assert left == {mine, "queued"}


def test_old_records_and_frozen_commits_are_removed_unless_a_run_needs_them(tree: Path) -> None:
    old = time.time() - (snapshots.KEPT_DAYS + 1) * 86400
    for name in ("old", "needed", "touched", "new"):
        folder = places.folder_of(name)
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text("{}")
        for path in (folder / "progress.json", folder) if name != "new" else ():
            os.utime(path, (old, old))
    os.utime(places.folder_of("touched") / "progress.json")
    assert snapshots.remove_unused(["needed"], []) == ["records old"]
    assert {path.name for path in (places.scratch() / "runs").iterdir()} == {"needed", "touched", "new"}


def test_the_events_of_old_trainings_are_removed(tree: Path) -> None:
    old = time.time() - (snapshots.KEPT_DAYS + 1) * 86400
    for name in ("0123456789", "young"):
        folder = places.scratch() / "live" / name
        folder.mkdir(parents=True)
        (folder / "events.jsonl").write_text("{}")
        for path in (folder / "events.jsonl", folder) if name != "young" else ():
            os.utime(path, (old, old))
    assert snapshots.remove_unused([], []) == ["events of training 01234567"]
    assert [path.name for path in (places.scratch() / "live").iterdir()] == ["young"]


@pytest.mark.slow
def test_a_finished_run_needs_no_frozen_commit(tree: Path) -> None:
    first, second = snapshots.freeze([REQUEST, REQUEST.model_copy(update={"seed": 8})], tree)
    assert snapshots.frozen_commits() == {first.commit, second.commit}
    snapshots.release(first.commit)
    snapshots.release(first.commit)
    assert snapshots.frozen_commits() == {second.commit}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a,b # c", 'say "so"'])
def test_the_cache_is_shared_whatever_the_name_of_the_checkout(tmp_path: Path, name: str) -> None:
    root, folder = tmp_path / name, tmp_path / "worktree"
    for place in (root, folder):
        place.mkdir()
        subprocess.run("git init -q && dvc init -q", shell=True, cwd=place, check=True)
    snapshots.share_cache(root, folder)
    said = subprocess.run(["dvc", "cache", "dir"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(root / ".dvc" / "cache")
