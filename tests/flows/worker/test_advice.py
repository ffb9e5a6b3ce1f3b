"""What `arc doctor` says in each case, word for word, on a machine that is made up."""

import json
import os
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.cluster import settings
from flows.queue import deployment, flow_runs
from flows.runs import processes
from flows.worker import doctor, hold, kept_results
from flows.worker.doctor import Finding
from tests.support.made_up_server import Server

GIB = 2**30


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a cache, a scratch and no GPU locks."""
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path), "ARC_LOCKS": str(tmp_path / "locks")})
    for name in ("ARC_SCRATCH", "PREFECT_API_URL", "PREFECT_SERVER_API_PORT", hold.LIMIT_VARIABLE):
        os.environ.pop(name, None)
    monkeypatch.setattr(hold, "cache", lambda root: root / "cache")
    monkeypatch.setattr("flows.worker.doctor.server.find", lambda: None)
    for folder in (".scratch/worktrees/b", ".scratch/worktrees/a c", "cache", "locks"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_of_each_disk_its_free_space_and_what_may_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {home: 9.95, home / "cache": 10.0, home / "locks": 1.99, home / ".scratch": 2.0}
    names = ("home", "cache", "locks", "scratch")
    monkeypatch.setattr(hold, "folders", lambda: dict(zip(names, free, strict=True)))
    monkeypatch.setattr(doctor, "shutil", SimpleNamespace(disk_usage=lambda at: SimpleNamespace(free=free[at] * GIB)))
    monkeypatch.setattr(doctor, "advice", lambda at: f"advice for {at.name}")
    held = "; below 2 GiB `arc worker` holds the queue (ARC_HOLD_GIB)"
    assert list(doctor.disk()) == [
        Finding("disk", f"9.9 GiB free at {home} (home)", f"advice for {home.name}"),
        Finding("disk", f"10.0 GiB free at {home}/cache (cache)"),
        Finding("disk", f"2.0 GiB free at {home}/locks (locks){held}", "advice for locks"),
        Finding("disk", f"2.0 GiB free at {home}/.scratch (scratch)", "advice for .scratch"),
    ]


def test_what_may_be_deleted_depends_on_the_file_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = f"{home}/.scratch/worktrees"
    cache = (
        "delete exp/ branches that nobody needs, then, while no run is active, "
        f"`dvc gc --workspace --all-branches -p '{tree}/a c' -p {tree}/b`"
    )
    scratch = f"delete folders of trainings that nobody will resume in {home}/.scratch/train"
    assert doctor.advice(home) == f"{cache}, or {scratch}"
    monkeypatch.setenv("ARC_SCRATCH", "/proc/none")
    assert doctor.advice(home) == cache.replace(f" -p '{tree}/a c' -p {tree}/b", "")
    monkeypatch.setenv("ARC_SCRATCH", str(home / ".scratch"))
    monkeypatch.setattr(hold, "cache", lambda _: Path("/proc"))
    assert doctor.advice(home) == scratch
    monkeypatch.setattr(hold, "cache", lambda _: home / "none")
    monkeypatch.setenv("ARC_SCRATCH", "/proc/none")
    assert doctor.advice(home) == f"delete what nobody needs on the file system of {home}"


def test_gpus_and_their_processes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, done = [], SimpleNamespace(returncode=0, stdout="", stderr="")
    run = lambda command, **options: asked.append((command, options)) or done  # noqa: E731
    monkeypatch.setattr(doctor, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(doctor, "shutil", SimpleNamespace(which=lambda name: None))
    assert list(doctor.gpu()) == [Finding("gpu", "no nvidia-smi: the CPU is used")]
    monkeypatch.setattr(doctor, "shutil", SimpleNamespace(which=lambda name: name == "nvidia-smi"))
    assert list(doctor.gpu()) == [Finding("gpu", "0 processes on the GPUs")]
    query = "nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits"
    assert asked == [(query.split(" "), {"capture_output": True, "text": True})]
    done.returncode, done.stdout = 1, " no driver\n"
    assert list(doctor.gpu()) == [Finding("gpu", "nvidia-smi: no driver", "repair the driver; a reboot often does")]


def test_locks_and_their_holders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpu1", "gpu0", "free"):
        (home / "locks" / f"{name}.lock").touch()
    held = {"gpu0": {"process": 5}, "gpu1": {"process": 6}}
    monkeypatch.setattr("flows.worker.doctor.gpu_lock.holder", lambda path: held.get(path.stem))
    monkeypatch.setattr("flows.worker.doctor.gpu_lock.describe", lambda owner: f"is held by {owner['process']}")
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 7)
    rwlock = home / ".scratch" / "worktrees" / "b" / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    rwlock.write_text(json.dumps({"x": {"write": {"pid": 7}, "read": [{"pid": 8}, {"pid": "8"}]}}))
    index = home / ".git" / "index.lock"
    index.parent.mkdir()
    index.touch()
    touched = index.stat().st_mtime
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: touched + 600.5))
    assert list(doctor.locks()) == [
        Finding("lock", "gpu0 is held by 5"),
        Finding("lock", "gpu1 is held by 6"),
        Finding("lock", f"{rwlock} belongs to process 8, which is dead", f"`rm {rwlock}`"),
        Finding("lock", f"{index} is older than 10 minutes", f"if no git command is running: `rm {index}`"),
    ]
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: touched + 599.5))
    assert len(list(doctor.locks())) == 3


@pytest.mark.parametrize(("listens", "chosen"), [(True, True), (False, True), (False, False)])
def test_the_port_of_a_server_that_does_not_answer(home: Path, monkeypatch: Any, listens: bool, chosen: bool) -> None:
    monkeypatch.setattr("flows.worker.doctor.server.answers", lambda: False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        port = other.getsockname()[1] if chosen else 4200
        if chosen:
            os.environ["PREFECT_SERVER_API_PORT"] = str(port)
        else:
            refused = SimpleNamespace(socket=socket.socket)
            monkeypatch.setattr(socket.socket, "connect", lambda *_: (_ for _ in ()).throw(ConnectionRefusedError))
            monkeypatch.setattr(doctor, "socket", refused)
        free = "set PREFECT_SERVER_API_PORT to a free port, for every command here"
        used = Finding("server", f"port {port} is used by another program", free)
        none = Finding("server", f"none at http://127.0.0.1:{port}/api", "`arc worker` starts one")
        assert list(doctor.ports()) == [used if listens else none]


def test_a_server_that_answers_and_the_worker(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.worker.doctor.server.answers", lambda: True)
    monkeypatch.setattr("flows.worker.doctor.server.check_secret", lambda: None)
    here = "http://127.0.0.1:4200/api"
    free = "set PREFECT_SERVER_API_PORT to a free port, for every command here"
    for ours, found in (
        (True, Finding("server", f"answers at {here}")),
        (False, Finding("server", f"the server at {here} belongs to another checkout", free)),
    ):
        monkeypatch.setattr("flows.worker.doctor.server.ours", lambda ours=ours: ours)
        assert list(doctor.ports()) == [found]
    monkeypatch.setattr("flows.worker.doctor.gpu_lock.holder", lambda _: None)
    why = "start `arc worker` if runs are waiting"
    assert list(doctor.worker()) == [Finding("worker", "no worker is running", why)]


def test_runs_and_worktrees(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, state: str) -> SimpleNamespace:
        return SimpleNamespace(id=name, name=f"the {name}", state=SimpleNamespace(name=state))

    states = {"alive": "Running", "dead": "Running", "pending": "Pending", "submitted": "Submitting", "away": "Running"}
    active = [run(name, state) for name, state in states.items()]
    asked = []
    monkeypatch.setattr("flows.worker.doctor.server.answers", lambda: True)
    monkeypatch.setattr("flows.worker.doctor.server.ours", lambda: True)
    monkeypatch.setattr(deployment, "client", Server)
    rows = lambda _, *kinds: asked.append([k.value for k in kinds]) or ([run("b", "")] if asked[1:] else active)  # noqa: E731
    monkeypatch.setattr(flow_runs, "runs", rows)
    monkeypatch.setattr(processes, "living", lambda name: [1, 2] if name == "alive" else [])
    monkeypatch.setattr("flows.worker.doctor.owners.here", lambda run: run.id != "away")
    monkeypatch.setattr("flows.worker.doctor.owners.owner", lambda _: "worker-3")
    assert list(doctor.runs()) == [
        Finding("run", "the alive: Running, 2 processes"),
        Finding("run", "the dead is shown as Running but is dead", "restart `arc worker`"),
        Finding("run", "the pending: Pending, 0 processes"),
        Finding("run", "the submitted: Submitting, 0 processes"),
        Finding("run", "the away: Running at worker-3"),
        Finding("worktree", f"{home}/.scratch/worktrees/a c has no run", "`arc worker` removes it when it starts"),
    ]
    assert asked == [["RUNNING", "PENDING", "CANCELLING"], ["SCHEDULED", "PAUSED"]]
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    monkeypatch.setattr("flows.worker.doctor.server.answers", lambda: False)
    assert list(doctor.runs()) == []


@pytest.mark.parametrize(("joined", "remote", "told"), [(True, True, False), (True, False, True), (False, True, True)])
def test_results_that_are_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch, joined: bool, remote: bool, told: bool
) -> None:
    monkeypatch.setattr(kept_results, "lost_by_branch", lambda: iter([("exp/a", ["x", "y"]), ("exp/b", ["z"])]))
    monkeypatch.setattr(kept_results, "unpublished", dict)
    monkeypatch.setattr(kept_results, "branches", lambda: {"exp/a": "1", "exp/b": "2", "exp/c": "3"})
    monkeypatch.setattr(settings, "joined", lambda: joined)
    monkeypatch.setattr("flows.worker.doctor.dvc_remote.configured", lambda at: remote and at == home)
    whole = Finding("result", "3 exp/ branches, whole in DVC's cache and in MLflow")
    lost = [
        Finding(
            "result",
            f"{name}: DVC's cache lacks {outputs}",
            f"`git switch {name} && dvc repro` computes them again",
        )
        for name, outputs in (("exp/a", "2 outputs, such as x"), ("exp/b", "1 outputs, such as z"))
    ]
    assert list(doctor.results()) == (lost if told else [whole])
    monkeypatch.setattr(kept_results, "unpublished", lambda: {"exp/a": "1"})
    missing = Finding("result", "the MLflow store lacks 1 branches, such as exp/a", "`arc publish`")
    assert list(doctor.results()) == [*(lost if told else []), missing]


def test_the_pieces_of_a_cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows = lambda joined, secret: asked.append((joined.server, secret)) or [("git", "fine", ""), ("space", "1", "2")]  # noqa: E731
    monkeypatch.setattr("flows.worker.doctor.checks.rows", rows)
    monkeypatch.setattr("flows.worker.doctor.places.environment", lambda: {settings.AUTH_VARIABLE: "ours"})
    monkeypatch.setattr(settings, "read", lambda: SimpleNamespace(remote="origin", server=""))
    assert list(doctor.cluster()) == [Finding("git", "fine", "")]
    monkeypatch.setattr("flows.worker.doctor.places.environment", dict)
    os.environ[settings.AUTH_VARIABLE] = "given"
    list(doctor.cluster())
    del os.environ[settings.AUTH_VARIABLE]
    list(doctor.cluster())
    assert asked == [("", "ours"), ("", "given"), ("", "")]


def test_installed_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError
        return {"prefect": "3.8.8", "mlflow": "3.18.0", "dvc": "3.67"}[name]

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "git", lambda *given: f"git says {given}")
    assert list(doctor.versions()) == [
        Finding("version", "prefect 3.8.8"),
        Finding("version", "mlflow 3.18.0", "tested with 3.17*; install that version if something fails"),
        Finding("version", "dvc 3.67"),
        Finding("version", "torch is not installed", "`make setup`"),
        Finding("version", "git says ('--version',)"),
    ]
    names = ("disk", "gpu", "own", "locks", "ports", "worker", "runs", "results", "cluster", "versions")
    assert tuple(check.__name__ for check in doctor.CHECKS) == names
