"""Each check of `arc doctor`, on a machine that is made up: what it finds, and what it advises."""

import json
import os
import subprocess
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prefect.client.schemas.objects import StateType

from flows.cluster import settings
from flows.queue import deployment, flow_runs
from flows.runs import processes, snapshots
from flows.runs.places import FlowError
from flows.worker import doctor, hold, kept_results
from flows.worker.doctor import Finding

GIB = 2**30
DEAD = 2**22 + 1
"""No process has this id: it is above the kernel's largest."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout whose GPU locks are beside it."""
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.setenv("ARC_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(hold, "cache", lambda root: root / "cache")
    monkeypatch.setattr("flows.worker.doctor.server.find", lambda: None)
    (tmp_path / ".scratch" / "worktrees").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    return tmp_path


def wrong(findings: Any) -> list[str]:
    return [found.what for found in findings if found.fix]


def test_a_check_that_fails_is_a_finding_and_the_others_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Any:
        raise FlowError("it is away")

    def broken() -> Any:
        raise KeyError("x")

    monkeypatch.setattr(doctor, "CHECKS", (refused, broken, lambda: iter([Finding("own", "fine")])))
    first, second, third = doctor.examine()
    assert first == Finding("refused", "it is away", "see the message")
    assert (second.what, second.found) == ("broken", "KeyError: 'x'")
    assert "itself failed" in second.fix
    assert third == Finding("own", "fine")


@pytest.mark.parametrize(("free", "fixed", "holds"), [(9.99, 1, 0), (10.0, 0, 0), (1.9, 1, 1)])
def test_a_disk_has_a_fix_below_10_gib_and_says_below_which_the_queue_is_held(
    home: Path, monkeypatch: pytest.MonkeyPatch, free: float, fixed: int, holds: int
) -> None:
    (home / ".scratch" / "worktrees" / "a run").mkdir()
    monkeypatch.setattr(hold, "folders", lambda: {"scratch": home})
    usage = SimpleNamespace(free=free * GIB)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    [found] = doctor.disk()
    assert found.found.startswith(f"{free:.1f} GiB free at {home} (scratch)")
    assert (bool(found.fix), "holds the queue" in found.found) == (bool(fixed), bool(holds))
    if fixed:
        assert f"-p '{home}/.scratch/worktrees/a run'`" in found.fix
        assert found.fix.endswith(f"in {home}/.scratch/train")


def test_nothing_of_ours_is_to_be_deleted_on_another_file_system(home: Path) -> None:
    assert doctor.advice(Path("/proc")) == "delete what nobody needs on the file system of /proc"


def test_processes_on_the_gpu_without_our_lock_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)  # type: ignore[attr-defined]
    assert wrong(doctor.gpu()) == []
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor, "_holders", lambda: {"gpu0": {"process": 12}})
    said = {"nvidia-smi": subprocess.CompletedProcess([], 0, "12, 300\n13, 40\n")}
    monkeypatch.setattr(doctor.subprocess, "run", lambda command, **_: said[command[0]])  # type: ignore[attr-defined]
    ours, other, count = doctor.gpu()
    assert (ours.found, ours.fix) == ("process 12 uses 300 MiB", "")
    assert (other.found, other.fix) == ("process 13 uses 40 MiB, without our lock", "if nobody needs it: `kill 13`")
    assert count.found == "2 processes on the GPUs"
    said["nvidia-smi"] = subprocess.CompletedProcess([], 9, "no devices")
    [found] = doctor.gpu()
    assert found.found == "nvidia-smi: no devices"
    assert found.fix


def test_a_pipe_in_the_users_data_is_found(home: Path) -> None:
    (home / "data" / "own").mkdir(parents=True)
    assert not list(doctor.own())
    os.mkfifo(home / "data" / "own" / "pipe")
    assert wrong(doctor.own()) == ["data/own"]


def test_locks_of_the_dead_and_old_ones_of_git_are_found(home: Path) -> None:
    tree = home / ".scratch" / "worktrees" / "run"
    for folder, pid in ((home, os.getpid()), (tree, DEAD)):
        (folder / ".dvc" / "tmp").mkdir(parents=True)
        rows = {"a": {"write": {"pid": pid}}, "b": {"read": [{"pid": pid}]}, "c": {"write": {}, "read": []}}
        (folder / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(rows))
    index = home / ".git" / "index.lock"
    index.parent.mkdir()
    index.touch()
    [found] = doctor.locks()
    assert (found.what, found.fix) == ("lock", f"`rm {tree}/.dvc/tmp/rwlock`")
    os.utime(index, (time.time() - 590, time.time() - 590))
    assert len(list(doctor.locks())) == 1
    os.utime(index, (time.time() - 610, time.time() - 610))
    assert str(index) in list(doctor.locks())[-1].fix
    (tree / ".dvc" / "tmp" / "rwlock").write_text("")
    assert len(list(doctor.locks())) == 1


@pytest.mark.parametrize(
    ("answers", "ours", "found", "fixed"),
    [
        (True, True, "answers at", False),
        (True, False, "belongs to another checkout", True),
        (False, False, "none at", True),
    ],
)
def test_the_server_is_ours_or_of_another_or_away(
    home: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, ours: bool, found: str, fixed: bool
) -> None:
    checked = []
    monkeypatch.setattr("flows.worker.doctor.server.answers", lambda: answers)
    monkeypatch.setattr("flows.worker.doctor.server.ours", lambda: ours)
    monkeypatch.setattr("flows.worker.doctor.server.check_secret", lambda: checked.append(1))
    monkeypatch.setattr("flows.worker.doctor.prefect_server.port", lambda: 9)
    [row] = doctor.ports()
    assert found in row.found
    assert bool(row.fix) == fixed
    assert len(checked) == (answers and ours)


def test_a_worker_is_known_by_its_lock(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    row = {"process": 7, "since": "noon"}
    monkeypatch.setattr("flows.worker.doctor.gpu_lock.holder", lambda path: asked.append(path) or row)
    assert list(doctor.worker()) == [Finding("worker", "process 7 since noon")]
    assert asked == [home / ".scratch" / "worker.lock"]
    monkeypatch.setattr("flows.worker.doctor.gpu_lock.holder", lambda _: None)
    assert wrong(doctor.worker()) == ["worker"]


def test_a_dead_run_and_a_worktree_of_no_run_are_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    def run(name: str, state: str) -> SimpleNamespace:
        return SimpleNamespace(id=name, name=name, state=SimpleNamespace(name=state))

    active = [run(name, "Running") for name in ("lives", "dead", "away")] + [run("early", "Pending")]
    monkeypatch.setattr("flows.worker.doctor.server.answers", lambda: True)
    monkeypatch.setattr("flows.worker.doctor.server.ours", lambda: True)
    monkeypatch.setattr(deployment, "client", Connection)
    rows = {StateType.SCHEDULED: [run("waits", "Scheduled")], StateType.RUNNING: active}
    monkeypatch.setattr(flow_runs, "runs", lambda _, *kinds: rows[kinds[0]])
    monkeypatch.setattr(processes, "living", lambda name: [1, 2] if name == "lives" else [])
    monkeypatch.setattr("flows.worker.doctor.owners.here", lambda run: run.id != "away")
    monkeypatch.setattr("flows.worker.doctor.owners.owner", lambda _: "")
    for name in ("lives", "waits", "nobody", snapshots.foreground_name(psutil.Process())):
        (home / ".scratch" / "worktrees" / name).mkdir()
    found = {row.found.split(":")[0].split(" ")[0].rpartition("/")[2]: row for row in doctor.runs()}
    assert set(found) == {"lives", "dead", "away", "early", "nobody"}
    assert {name for name, row in found.items() if row.fix} == {"dead", "nobody"}
    assert found["lives"].found == "lives: Running, 2 processes"
    assert found["away"].found.endswith("no worker yet")
    monkeypatch.setattr("flows.worker.doctor.server.ours", lambda: False)
    assert not list(doctor.runs())


def test_results_that_are_lost_are_told_with_what_brings_them_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "lost_by_branch", lambda: iter([("exp/a", ["data/x", "data/y"])]))
    monkeypatch.setattr(kept_results, "unpublished", dict)
    monkeypatch.setattr(settings, "joined", lambda: False)
    [lost] = doctor.results()
    assert "exp/a: DVC's cache lacks 2 outputs, such as data/x" in lost.found
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr("flows.worker.doctor.dvc_remote.configured", lambda _: True)
    monkeypatch.setattr(kept_results, "branches", lambda: {"exp/a": "1"})
    assert [row.found for row in doctor.results()] == ["1 exp/ branches, whole in DVC's cache and in MLflow"]
    monkeypatch.setattr(kept_results, "unpublished", lambda: {f"exp/{n}": "c" for n in "abcd"})
    [row] = doctor.results()
    assert row.found == "the MLflow store lacks 4 branches, such as exp/a, exp/b, exp/c"


def test_versions_other_than_the_tested_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "dvc":
            raise PackageNotFoundError
        return {"mlflow": "4.0"}.get(name, f"{doctor.TESTED[name]}.7")

    monkeypatch.setattr(doctor, "version", version)
    assert [row.found for row in doctor.versions() if row.fix] == ["mlflow 4.0", "dvc is not installed"]


def test_a_cluster_is_checked_where_it_was_joined(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("space", "much", "x"), ("git", "away", "plug it in")]
    monkeypatch.setattr("flows.worker.doctor.checks.rows", lambda joined, secret: rows)
    monkeypatch.setattr(settings, "read", lambda: SimpleNamespace(remote="", server="http://there"))
    assert not list(doctor.cluster())
    monkeypatch.setattr(settings, "read", lambda: SimpleNamespace(remote="origin", server="http://there"))
    assert list(doctor.cluster()) == [Finding("git", "away", "plug it in")]
