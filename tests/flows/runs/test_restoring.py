"""Which result a name means in a real git repository, and what `arc restore` leaves where DVC lacks its files."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.runs import restore, snapshots
from flows.runs.places import FlowError, git
from flows.worker import hold


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a branch exp/v3/a, an experiment of DVC's, and a commit without a lock."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("ARC_HOME", str(root))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    git("init", "-q", "-b", "main", cwd=root)
    author = snapshots.identity(root)
    empty = git("commit-tree", git("write-tree", cwd=root), "-m", "x", cwd=root, **author)
    (root / "dvc.lock").write_text("stages: {}\n")
    git("add", "dvc.lock", cwd=root)
    whole = git("commit-tree", git("write-tree", cwd=root), "-m", "x", cwd=root, **author)
    other = git("commit-tree", git("write-tree", cwd=root), "-m", "y", cwd=root, **author)
    refs = {"refs/heads/exp/v3/a": whole, f"refs/exps/ab/{'c' * 38}/brave-lion": other, "refs/heads/empty": empty}
    refs |= {"refs/exps/exec/EXEC_BASELINE": empty, "refs/heads/v3/a": empty}
    for name, commit in refs.items():
        git("update-ref", name, commit, cwd=root)
    return root


def test_a_name_is_a_branch_an_experiment_or_a_commit(home: Path) -> None:
    whole, other = (git("rev-parse", name, cwd=home) for name in ("exp/v3/a", f"refs/exps/ab/{'c' * 38}/brave-lion"))
    assert restore.commit_of("exp/v3/a") == restore.commit_of("v3/a") == whole, "before another branch of that name"
    assert restore.commit_of("brave-lion") == other
    assert restore.commit_of(whole[:12]) == whole
    with pytest.raises(FlowError, match=r"no result 'v3/b'.*exp/v3/a"):
        restore.commit_of("v3/b")
    with pytest.raises(FlowError, match=r"no result 'EXEC_BASELINE'"):
        restore.commit_of("EXEC_BASELINE")
    with pytest.raises(FlowError, match=r"empty \(commit .{9}\) has no dvc.lock"):
        restore.restore("empty")


@pytest.mark.parametrize(("remote", "pulls", "whole"), [(0, 0, True), (0, 1, False), (1, 0, False)])
def test_files_come_from_the_cache_or_a_remote_and_else_nothing_is_left(
    home: Path, monkeypatch: Any, remote: int, pulls: int, whole: bool
) -> None:
    asked: list[str] = []
    codes = {"checkout": 1, "config": remote, "pull": pulls}

    def run(command: list[str], **_: Any) -> Any:
        asked.append(command[1])
        return subprocess.CompletedProcess(command, codes[command[1]], "", "missing\nfiles\n")

    monkeypatch.setattr(restore, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(snapshots, "share_cache", lambda *_: None)
    folder = home / ".scratch" / "restored" / "v3-a"
    if whole:
        assert restore.restore("exp/v3/a") == folder
        assert (folder / "dvc.lock").exists()
        with pytest.raises(FlowError, match="exists; `git worktree remove"):
            restore.restore("v3/a")
    else:
        with pytest.raises(FlowError, match=r"not all of its files are in DVC's cache.*missing files"):
            restore.restore("v3/a")
        assert not folder.exists()
        assert str(folder) not in git("worktree", "list", cwd=home)
    assert asked[:3] == ["checkout", "config", "pull"][: 3 - (remote == 1)]
    codes["checkout"] = 0
    assert restore.restore("brave-lion", Path("here")) == home / "here"


def test_each_file_system_is_looked_at_once(home: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(hold, "cache", lambda root: root / "none")
    monkeypatch.setattr("flows.worker.hold.tempfile.gettempdir", lambda: "/proc")
    assert hold.folders() == {"results and databases": home, "temporary files": Path("/proc")}


@pytest.mark.parametrize(
    ("text", "limit"), [("", 2.0), ("0", 0.0), ("3.5", 3.5), ("x", None), ("-1", None), ("1e6", None)]
)
def test_the_limit_is_a_number_of_gib(monkeypatch: Any, text: str, limit: float | None) -> None:
    monkeypatch.setenv(hold.LIMIT_VARIABLE, text)
    if limit is None:
        with pytest.raises(FlowError, match=f"{hold.LIMIT_VARIABLE} is"):
            hold.limit_gib()
    else:
        assert hold.limit_gib() == limit


def test_gpus_are_those_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    two = "GPU 0: H100\nGPU 1: H100\n"
    ends = [subprocess.CompletedProcess([], 0, two), subprocess.CompletedProcess([], 9, "GPU 0")]

    def run(*_: Any, **__: Any) -> Any:
        if not ends:
            raise subprocess.TimeoutExpired("nvidia-smi", 20)
        return ends.pop(0)

    monkeypatch.setattr(hold, "subprocess", SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired))
    monkeypatch.setattr("flows.worker.hold.shutil.which", lambda name: name)
    assert [hold.gpus(), hold.gpus(), hold.gpus()] == [2, 0, 0]
    monkeypatch.setattr("flows.worker.hold.shutil.which", lambda _: None)
    assert hold.gpus() == 0


def test_the_cache_is_where_dvc_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [subprocess.CompletedProcess([], 0, "../cache\n", ""), subprocess.CompletedProcess([], 1, "", "no repo\n")]
    monkeypatch.setattr(hold, "subprocess", SimpleNamespace(run=lambda *_, **__: ends.pop(0)))
    assert hold.cache(home) == home.parent / "cache"
    with pytest.raises(FlowError, match="no repo"):
        hold.cache(home)
