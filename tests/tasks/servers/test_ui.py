"""The pages as a user starts them: real servers on 127.0.0.1, and nothing left of them afterwards."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.common.stage import StageError
from tasks.servers import ui
from tests.conftest import ROOT

Started = tuple[subprocess.Popen[str], dict[str, int]]


def listening() -> socket.socket:
    other = socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen()
    return other


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Started]]:
    """Starts `python -m tasks.servers.ui` in an empty folder and reads its lines up to `last`; '' reads none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    processes: list[subprocess.Popen[str]] = []
    free = 40000 + os.getpid() % 1000 * 20

    def start(mlflow: int = free, prefect: int = free + 10, last: str = "Ctrl-C") -> Started:
        command = [
            sys.executable,
            "-m",
            "tasks.servers.ui",
            "--mlflow-port",
            str(mlflow),
            "--prefect-port",
            str(prefect),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / ".prefect")}
        environment["PREFECT_API_URL"] = "http://127.0.0.1:4200/api"  # The page must not ask that one.
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        ports: dict[str, int] = {}
        assert process.stdout
        for line in process.stdout if last else ():
            if found := re.match(r"(\w+) +http://127\.0\.0\.1:(\d+)", line):
                ports[found[1]] = int(found[2])
            if last in line:
                break
        return process, ports

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def get(port: int, path: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    request.add_header("Authorization", f"Basic {base64.b64encode(ui.secret().encode()).decode()}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def family(process: "subprocess.Popen[str]", least: int = 0) -> list[Any]:
    """Its processes, once there are enough of them."""
    deadline = time.monotonic() + 60
    while len(members := psutil.Process(process.pid).children(recursive=True)) < least:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return members


@pytest.mark.slow
def test_both_pages_answer_on_this_machine_alone_and_sigterm_leaves_no_process(begin, tmp_path):
    with listening() as first, listening() as second:
        taken = first.getsockname()[1], second.getsockname()[1]
        process, ports = begin(*taken)
        assert ports["MLflow"] > taken[0]
        assert ports["Prefect"] > taken[1]
    assert "<html" in get(ports["MLflow"], "/").lower()
    assert "<html" in get(ports["Prefect"], "/").lower()
    found = json.loads(get(ports["MLflow"], "/ajax-api/2.0/mlflow/experiments/search", {"max_results": 5}))
    assert [e["artifact_location"] for e in found["experiments"]] == [str(tmp_path / "mlartifacts" / "0")]
    settings = json.loads(get(ports["Prefect"], "/ui-settings"))
    assert settings["api_url"] == f"http://127.0.0.1:{ports['Prefect']}/api"
    for name, path in (("Prefect", "/api/flow_runs/count"), ("MLflow", "/ajax-api/2.0/mlflow/experiments/search")):
        with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
            urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}{path}", b"{}", timeout=20)
    assert json.loads(get(ports["MLflow"], "/ajax-api/3.0/mlflow/ui-telemetry"))["disable_ui_telemetry"]

    members = family(process)
    sockets = [c for m in members for c in m.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.port for c in sockets} == set(ports.values())
    assert {c.laddr.ip for c in sockets} == {"127.0.0.1"}
    assert (tmp_path / ".prefect" / "prefect.db").exists()

    again, same = begin(last="no such line")
    assert again.wait(timeout=30) == 0
    assert same == ports
    assert family(process) == members

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 0
    assert not psutil.wait_procs(members, timeout=0)[1]


@pytest.mark.slow
def test_a_port_that_is_taken_while_a_server_starts_is_left_for_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = lambda port: ("http.server", str(port), "--bind", "127.0.0.1")  # noqa: E731
    page = ui.Page("Files", arguments, lambda _: {}, "/", lambda _: False, "/")
    with listening() as other:
        taken = other.getsockname()[1]
        _, port, process = ui.settle(page, taken, ui.start(page, taken), {taken})
    try:
        assert port > taken
        assert page.answers(port)
    finally:
        ui.end([process])


def test_a_server_that_ends_for_another_reason_is_not_started_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ui.Page("Files", lambda _: ("http.server", "no port"), lambda _: {}, "/", lambda _: False, "/")
    with pytest.raises(StageError, match="ended with code 2"):
        ui.settle(page, 50100, ui.start(page, 50100), {50100})


@pytest.mark.slow
def test_pages_in_the_background_outlive_their_command_until_they_are_stopped(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    free = 41000 + os.getpid() % 1000 * 20
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tasks.servers.ui", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    none = run("--stop")
    assert (none.returncode, "no pages run in the background" in none.stderr) == (1, True)
    ports = "--mlflow-port", str(free), "--prefect-port", str(free + 10)
    done = run("--detach", *ports)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+) +http://127\.0\.0\.1:(\d+)", done.stdout))
    assert set(found) == {"MLflow", "Prefect"}
    assert "`arc ui --stop` ends what was started here" in done.stdout
    record = json.loads((tmp_path / ".scratch/ui/pages.json").read_text())
    members = [psutil.Process(record["process"]), *psutil.Process(record["process"]).children(recursive=True)]
    for port in found.values():
        assert "<html" in get(int(port), "/").lower()
    again = run("--detach", *ports)
    assert f"process {record['process']} has the pages" in again.stdout
    assert run("--stop").returncode == 0
    assert not psutil.wait_procs(members, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.night
def test_the_pages_survive_the_end_of_the_terminal_under_nohup(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    free = 42000 + os.getpid() % 1000 * 20
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["nohup", sys.executable, "-m", "tasks.servers.ui", "--mlflow-port", str(free)]
    command += ["--prefect-port", str(free + 10)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        process.send_signal(signal.SIGHUP)
        time.sleep(2)
        assert process.poll() is None
        assert "<html" in get(free, "/").lower()
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_a_killed_command_takes_its_servers_along(begin):
    process, _ = begin(last="")
    members = family(process, least=3)
    process.kill()
    assert not psutil.wait_procs(members, timeout=30)[1]


@pytest.mark.slow
def test_a_server_that_ends_ends_the_command_and_the_other_server(begin):
    process, _ = begin(last="")
    members = family(process, least=3)
    next(m for m in members if "prefect" in m.cmdline()).kill()
    assert process.wait(timeout=40) == 1
    assert not psutil.wait_procs(members, timeout=0)[1]


def test_the_next_free_port_is_found_and_none_is_an_error(monkeypatch):
    with listening() as other:
        port = other.getsockname()[1]
        found = ui.free(port, set())
        assert found > port
        assert ui.free(port, {found}) > found
        monkeypatch.setattr(ui, "range", lambda *_: [port], raising=False)
        with pytest.raises(StageError, match="--mlflow-port"):
            ui.free(port, set())


@pytest.mark.slow
def test_prefect_takes_its_settings_from_the_repository(tmp_path):
    program = """
from prefect.settings import get_current_settings
s = get_current_settings()
print(s.home, s.server.analytics_enabled, s.server.ephemeral.startup_timeout_seconds, s.server.api.host)
"""
    (tmp_path / "prefect.toml").write_text((ROOT / "prefect.toml").read_text())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [".prefect", "False", "120", "127.0.0.1"]
