"""The worker and the server that are told to end, and a server that is started, found or refused; all made up."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.runs import places, processes
from flows.runs.places import FlowError
from flows.worker import server, stopping
from tasks.servers import prefect_server, ui


@pytest.fixture
def sleeper() -> Any:
    process = subprocess.Popen(["sleep", "60"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_a_process_that_ends_is_waited_for_and_one_that_stays_is_named(sleeper: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(stopping.time, "sleep", lambda _: None)  # type: ignore[attr-defined]
    stopping.end(sleeper, 5.0)
    assert sleeper.status() == psutil.STATUS_ZOMBIE
    stays = SimpleNamespace(pid=7, terminate=lambda: None, is_running=lambda: True, status=lambda: "sleeping")
    with pytest.raises(FlowError, match=r"process 7 has not ended after 0 s: `kill -9 7`"):
        stopping.end(stays, 0.01)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / ".scratch" / "runs" / "one").mkdir(parents=True)
    ended: list[Any] = []
    monkeypatch.setattr(stopping, "end", lambda process, seconds: ended.append((process.pid, seconds)))
    monkeypatch.setattr("flows.worker.stopping.gpu_lock.holder", lambda _: None)
    monkeypatch.setattr(server, "answers", lambda *_: True)
    monkeypatch.setattr(server, "ours", lambda: True)
    monkeypatch.setattr(server, "listener", lambda: SimpleNamespace(pid=5))
    monkeypatch.setattr(processes, "living", lambda _: [])
    return ended


def test_the_worker_ends_before_the_server(ends: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.worker.stopping.gpu_lock.holder", lambda _: {"process": str(psutil.Process().pid)})
    first, second = stopping.stop()
    assert ends == [(psutil.Process().pid, 60.0), (5, 30.0)]
    assert first.startswith("the worker")
    assert second == "the server (process 5) has ended"
    monkeypatch.setattr(server, "ours", lambda: False)
    monkeypatch.setattr("flows.worker.stopping.gpu_lock.holder", lambda _: None)
    assert list(stopping.stop()) == ["no worker is running", "no server of this checkout is running"]


def test_a_server_that_a_run_needs_or_that_is_of_another_user_stays(ends: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(processes, "living", lambda name: [1] if name == "one" else [])
    with pytest.raises(FlowError, match="flow run one"):
        list(stopping.stop())
    monkeypatch.setattr(processes, "living", lambda _: [])
    monkeypatch.setattr(server, "listener", lambda: None)
    with pytest.raises(FlowError, match="of another user or machine"):
        list(stopping.stop())
    assert ends == []


def test_a_server_without_our_secret_is_refused(ends: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[Any, int] = {}
    monkeypatch.setattr(
        "flows.worker.server.places.environment", lambda: {"PREFECT_API_AUTH_STRING": "u:s", "PREFECT_HOME": "/h"}
    )
    monkeypatch.setattr(prefect_server, "status", lambda _, given: answers[given])
    for ours, nobody, says in ((200, 401, ""), (0, 0, ""), (401, 401, "refuses the secret"), (200, 200, "without a")):
        answers.update({"u:s": ours, None: nobody})
        if says:
            with pytest.raises(FlowError, match=f"{says}.*`kill 5`"):
                server.check_secret()
        else:
            server.check_secret()
    monkeypatch.setattr(prefect_server, "foreign", lambda: True)
    server.check_secret()


def test_a_server_is_started_only_where_none_answers_and_none_was_chosen(ends: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(server, "find", lambda: None)
    started, checked = [], []
    monkeypatch.setattr(server, "_start", lambda: started.append(1))
    monkeypatch.setattr(server, "check_secret", lambda: checked.append(1))
    server.ensure()
    assert checked == [1]
    monkeypatch.setattr(server, "ours", lambda: False)
    with pytest.raises(FlowError, match="belongs to another checkout"):
        server.ensure()
    monkeypatch.setattr(server, "answers", lambda: False)
    (Path(places.environment()["PREFECT_HOME"])).mkdir(parents=True, exist_ok=True)
    server.ensure()
    assert started == [1]
    monkeypatch.setattr(prefect_server, "foreign", lambda: True)
    with pytest.raises(FlowError, match="does not answer; start that server"):
        server.ensure()
    assert started == [1]


def test_a_server_that_ends_at_once_is_told_with_its_last_line(ends: Any, tmp_path: Path, monkeypatch: Any) -> None:
    said, started = ["print('first'); print('no port')"], list[Any]()
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        assert command[1:] == ["-m", "tasks.servers.calm", "prefect", "server", "start"]
        assert options["start_new_session"]
        assert options["umask"] == 0o077
        assert options["env"]["PREFECT_SERVER_API_PORT"] == str(prefect_server.port())
        started.append(real([sys.executable, "-S", "-c", said[0]], stdout=options["stdout"]))
        return started[-1]

    monkeypatch.setattr(server, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    monkeypatch.setattr(server, "answers", lambda: False)
    home = Path(places.environment()["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "prefect.db").touch(mode=0o644)
    with pytest.raises(FlowError, match=r"ended at once; .*server.log ends with: \['no port'\]"):
        server._start()
    assert [file.stat().st_mode & 0o777 for file in (home / "prefect.db", home / "server.log")] == [0o600, 0o600]
    monkeypatch.setattr(server, "START_SECONDS", 0.01)
    said[0] = "import time; time.sleep(60)"
    began = time.monotonic()
    with pytest.raises(FlowError, match="does not answer at"):
        server._start()
    assert time.monotonic() - began < 50
    monkeypatch.setattr(server, "answers", lambda: True)
    server._start()
    for process in started:
        process.kill()
        process.wait()


def test_the_server_on_the_port_is_found_by_its_socket(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with socket.socket() as open_port:
        open_port.bind(("127.0.0.1", 0))
        monkeypatch.setattr(prefect_server, "port", lambda: open_port.getsockname()[1])
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        monkeypatch.setattr(server.psutil, "process_iter", lambda: iter([psutil.Process()]))  # type: ignore[attr-defined]
        assert server.listener() is None
        assert not server.ours()
        open_port.listen()
        assert server.listener() == psutil.Process()
        asked = []
        monkeypatch.setattr(ui, "prefect_page", lambda: SimpleNamespace(ours=lambda p: asked.append(p) or True))
        assert server.ours()
        assert asked == [psutil.Process()]
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert server.ours()
    assert server.address() == "http://127.0.0.1:1/api"
