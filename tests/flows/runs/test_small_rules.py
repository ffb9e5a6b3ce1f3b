"""Small pieces of a run, each in every case: processes that end meanwhile, folders, requests, names in MLflow."""

import hashlib
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows import completion
from flows.runs import flow, places, processes
from flows.runs.places import FlowError, git
from flows.runs.request import Request
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files.live import RUN_VARIABLE
from tasks.servers import process_identity
from tasks.servers.process_identity import Identity
from tasks.tracking import mlflow_runs, store
from tests.conftest import ROOT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path)})
    for name in ("ARC_SCRATCH", "PREFECT_API_URL", "PREFECT_SERVER_API_PORT", "MLFLOW_TRACKING_URI", "ARC_MLFLOW_PORT"):
        os.environ.pop(name, None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Process:
    """A process of a run that gets signals; one with `gone` has ended when it is asked."""

    def __init__(self, pid: int, name: str = "", status: str = "running", gone: bool = False) -> None:
        self.pid, self.name, self._status, self.gone = pid, name, status, gone
        self.got: list[int] = []

    def environ(self) -> dict[str, str]:
        if self.gone:
            raise psutil.NoSuchProcess(self.pid)
        return {RUN_VARIABLE: self.name}

    def status(self) -> str:
        return self._status

    def send_signal(self, number: int) -> None:
        self.got.append(number)
        if self.gone:
            raise psutil.NoSuchProcess(self.pid)


def test_the_living_processes_of_a_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Process(1, "r"), Process(2, "r")
    others = [
        Process(3, gone=True),
        Process(4, "other"),
        Process(5, "r", psutil.STATUS_ZOMBIE),
        Process(os.getpid(), "r"),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([others[0], first, *others[1:], second]))
    monkeypatch.setattr(processes, "recorded", lambda _: None)
    assert processes.living("r") == [first, second]
    monkeypatch.setattr(processes, "recorded", lambda _: second)
    assert processes.living("r") == [second, first], "each once"


def test_a_run_ends_with_a_signal_and_the_stubborn_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    tame, stubborn, gone = Process(1), Process(2), Process(3, gone=True)
    clock = SimpleNamespace(now=0.0, slept=[])

    def sleep(seconds: float) -> None:
        clock.now += 10.0
        clock.slept.append(seconds)

    def living(_: str) -> list[Any]:
        every = [tame, stubborn] if clock.now < 10 else [stubborn]
        return [] if signal.SIGKILL in stubborn.got and clock.now > 30 else [*every, *([gone] if not clock.now else [])]

    monkeypatch.setattr(processes, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    monkeypatch.setattr(processes, "living", living)
    assert processes.end("r") == 3
    assert (tame.got, gone.got) == ([signal.SIGTERM], [signal.SIGTERM])
    assert stubborn.got == [signal.SIGTERM, signal.SIGKILL]
    assert clock.slept == [0.2] * 3 + [0.1], "30 s to save"
    assert processes.end("r", grace=0.0) == 0


def test_a_process_that_has_ended_is_not_recorded(place: Path) -> None:
    processes.record("r", 2**22 + 1)
    assert not (place / ".scratch").exists()
    assert processes.recorded("r") is None


def test_the_identity_of_a_process_is_read_behind_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = process_identity.identity(os.getpid())
    assert known
    assert (known.process, known.ticks > 0) == (os.getpid(), True)
    files = {"/proc/sys/kernel/random/boot_id": "the boot\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, **_: files[str(path)])
    files["/proc/7/stat"] = "7 (a ) (name) S " + " ".join(str(i) for i in range(4, 53))
    assert process_identity.identity(7) == Identity(process=7, boot="the boot", ticks=22), "field 22 of proc(5)"
    for text in ("7 (short) S 1 2", "7 (odd) S " + "x " * 49):
        files["/proc/7/stat"] = text
        assert process_identity.identity(7) is None


@pytest.mark.parametrize("error", [psutil.NoSuchProcess(7), ValueError(), OverflowError(), None])
def test_a_process_that_ends_while_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    wanted = Identity(process=7, boot="b", ticks=1)

    def process(pid: int) -> Any:
        if error:
            raise error
        return SimpleNamespace(status=lambda: psutil.STATUS_ZOMBIE if pid == 8 else "running")

    monkeypatch.setattr(process_identity, "identity", lambda pid: Identity(process=pid, boot="b", ticks=1))
    monkeypatch.setattr(psutil, "Process", process)
    assert (process_identity.find(wanted) is None) == bool(error)
    assert process_identity.find(Identity(process=8, boot="b", ticks=1)) is None
    assert process_identity.find(Identity(process=7, boot="b", ticks=2)) is None
    assert process_identity.find(Identity(process=0, boot="b", ticks=1)) is None
    assert (process_identity.find(Identity(process=1, boot="b", ticks=1)) is None) == bool(error)


def test_where_a_checkout_and_its_home_are(place: Path) -> None:
    del os.environ["ARC_HOME"]
    git("init", "-q")
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "first")
    git("worktree", "add", "-q", "--detach", "other")
    (place / "other" / "deep").mkdir()
    os.chdir(place / "other" / "deep")
    assert (places.tree(), places.home()) == (place / "other", place)
    assert places.scratch() == place / ".scratch"
    os.environ["ARC_SCRATCH"] = "elsewhere/../here"
    assert places.folder_of("r") == place / "here" / "runs" / "r"
    assert places.worktree_of("r") == place / "here" / "worktrees" / "r"
    with pytest.raises(FlowError, match=r"^git rev-parse --verify nothing: fatal: "):
        git("rev-parse", "--verify", "nothing")
    assert git("hash-object", "--stdin", stdin="x") == hashlib.sha1(b"blob 1\0x").hexdigest()
    assert git("var", "GIT_AUTHOR_IDENT", GIT_AUTHOR_NAME="n", GIT_AUTHOR_EMAIL="e").startswith("n <e> ")


@pytest.mark.parametrize("name", ["PREFECT_SERVER_API_PORT", "ARC_MLFLOW_PORT"])
def test_a_port_that_is_none_is_an_error_of_the_user(place: Path, name: str) -> None:
    os.environ[name] = "0"
    with pytest.raises(FlowError) as refused:
        places.environment()
    assert str(refused.value) == f"{name} is '0'; allowed are 1 to 65535"


def test_an_error_is_a_line_of_300_printable_characters() -> None:
    assert places.one_line(ValueError("a\tb\n\n c\x1b[0m")) == "a b c [0m"
    assert places.one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert places.one_line("x" * 301) == "x" * 300


@pytest.mark.slow
def test_invalid_params_are_replaced_by_those_of_the_request(place: Path) -> None:
    (place / "presets.yaml").symlink_to(ROOT / "presets.yaml")
    asked = Request(version="v3", size="tiny", dataset="aa1-6x6")
    (place / "params.yaml").write_text("version: none\n")
    text = asked.text(place)
    assert text.startswith(f"# {asked.title}, as it was submitted.\nversion: v3\n")
    (place / "params.yaml").write_text(f"# mine\n{text}")
    assert asked.text(place) == f"# mine\n{text}", "it means the same"


@pytest.mark.parametrize("incomplete", ["v3/tin", "-v3/tin", "none/x"])
def test_what_is_no_folder_completes_to_experiments_alone(monkeypatch: pytest.MonkeyPatch, incomplete: str) -> None:
    monkeypatch.chdir(ROOT)
    found = completion.experiments_or_paths(incomplete)
    assert bool(found) == (incomplete == "v3/tin")
    assert all(name.startswith("v3/tiny/") for name in found)
    assert completion.experiments_or_paths("flows/ru") == ["flows/runs/"]
    assert "flows/arc.py" in completion.experiments_or_paths("flows/")


def test_the_branch_of_a_result_is_named_in_mlflow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, warned = [], []
    monkeypatch.setattr(store, "configured_store", lambda: "store")
    monkeypatch.setattr(flow, "get_run_logger", lambda: SimpleNamespace(warning=lambda *given: warned.append(given)))
    monkeypatch.setattr(mlflow_runs, "set_branch", lambda *given: named.append(given))
    flow._name_branch_in_mlflow(place, "exp/a")
    assert named == []
    file = place / paths.PUBLISHED
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"key": "k"}')
    flow._name_branch_in_mlflow(place, "exp/a")
    assert named == [("store", "k", "exp/a")]
    error = StageError("away")
    monkeypatch.setattr(mlflow_runs, "set_branch", lambda *_: (_ for _ in ()).throw(error))
    flow._name_branch_in_mlflow(place, "exp/a")
    assert warned == [("MLflow's run does not name its branch: %s", error)]


def test_a_tracking_server_that_does_not_answer_fails_no_finished_run(place: Path, monkeypatch: Any) -> None:
    warned: list[Any] = []
    monkeypatch.setattr(flow, "get_run_logger", lambda: SimpleNamespace(warning=lambda *given: warned.append(given)))
    monkeypatch.setattr(mlflow_runs, "run_of", lambda *_: ("1", "a" * 32))  # It is gone after this answer.
    monkeypatch.setitem(store.SETTINGS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    (place / paths.PUBLISHED).parent.mkdir(parents=True, exist_ok=True)
    (place / paths.PUBLISHED).write_text('{"key": "k"}')
    paths.EXPERIMENT.write_text("seed: 0\n")
    flow._warn_if_unreachable(lambda: flow.mlflow_links(place))
    [(text, error)] = warned
    assert text.startswith("results are not shown")
    assert str(error).startswith("MLflow at http://127.0.0.1:9: API request to http://127.0.0.1:9/")


@pytest.mark.parametrize("file", [paths.SCORES / "best-votes.json", paths.PUBLISHED])
def test_a_disk_that_fills_up_leaves_no_half_of_a_score(place: Path, file: Path) -> None:
    (place / "presets.yaml").symlink_to(ROOT / "presets.yaml")
    asked = Request(version="v3", size="tiny", dataset="aa1")
    (place / file).parent.mkdir(parents=True, exist_ok=True)
    (place / file).write_text("x" * 5000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            flow.copy_scores(asked, place, "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in places.folder_of("r").rglob("*") if path.is_file()] == ["title"]


def test_what_dvc_reads_by_pickle_lies_where_no_other_user_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    folder = Path(places.environment()["DVC_SITE_CACHE_DIR"])
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path / ".scratch", 0o700)
    monkeypatch.setenv("ARC_SCRATCH", "/proc/nowhere")
    assert places.environment()["DVC_SITE_CACHE_DIR"] == "/proc/nowhere/dvc-site", "whoever needs it is told"
