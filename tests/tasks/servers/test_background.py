"""Pages in the background: started once, ended, and told of when they end by themselves; they are a line of shell."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks.common.stage import StageError
from tasks.servers import background, process_identity, ui


def identity_of(pid: int) -> str:
    """The record of a process."""
    identity = process_identity.identity(pid)
    assert identity
    return identity.model_dump_json()


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets `detach` start this Python code instead of the pages."""
    monkeypatch.chdir(tmp_path)
    started: list[int] = []

    def let(code: str) -> None:
        real = subprocess.run

        def run(command: list[str], **options: Any) -> Any:
            assert command[4:] == [sys.executable, "-m", "tasks.servers.ui", "--mlflow-port", "5"]
            done = real([*command[:4], sys.executable, "-S", "-c", code], **options)
            started.append(int(done.stdout))
            return done

        fake = SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL, PIPE=subprocess.PIPE)
        monkeypatch.setattr(background, "subprocess", fake)

    yield let
    for pid in started:
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()


READY = "import time; print('MLflow http', 'Ctrl-C ends what was started here', sep='\\n', flush=True); time.sleep(60)"


def test_pages_start_once_and_end(pages: Any, capsys: Any) -> None:
    pages(READY)
    background.detach(["--mlflow-port", "5"])
    assert capsys.readouterr().out == "MLflow http\n`arc ui --stop` ends what was started here\n"
    process = background.recorded()
    assert process.pid == json.loads(background.RECORD.read_text())["process"]
    background.detach(["--mlflow-port", "5"])
    assert capsys.readouterr().out.startswith(f"process {process.pid} has the pages; `arc ui --stop` ends it:\nMLflow")
    assert background.recorded() == process
    background.stop()
    assert capsys.readouterr().out == f"ended process {process.pid} and its pages\n"
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not background.RECORD.exists()
    with pytest.raises(StageError, match="no pages run in the background here"):
        background.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_logs_with_the_secret_are_for_this_user(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o022)
    try:
        background.LOG.parent.mkdir(parents=True)
        for name in (background.LOG.name, "files.log"):
            (ui.LOGS / name).touch(mode=0o644)  # As an earlier version left them.
        pages(READY)
        background.detach(["--mlflow-port", "5"])
        page = ui.Page("Files", lambda _: ("http.server", "no port"), lambda _: {}, "/", lambda _: False, "/")
        other = ui.Page("Other", page.arguments, page.environment, "/", page.ours, "/")
        for process in (ui.start(page, 1), ui.start(other, 1)):
            process.wait(timeout=60)
    finally:
        os.umask(before)
    logs = [background.LOG, ui.LOGS / "files.log", ui.LOGS / "other.log"]
    assert all(log.stat().st_size for log in logs)
    assert [mode(log) for log in logs] == [0o600] * 3
    assert mode(ui.LOGS) == 0o700


def test_pages_that_nobody_collects_have_ended_too(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    child = subprocess.Popen(["sleep", "60"])  # A zombie until we wait for it.
    process = psutil.Process(child.pid)
    background.RECORD.parent.mkdir(parents=True)
    background.RECORD.write_text(identity_of(child.pid))
    background.stop()
    assert capsys.readouterr().out == f"ended process {child.pid} and its pages\n"
    assert process.status() == psutil.STATUS_ZOMBIE
    child.wait()
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.05; done"], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    background.RECORD.write_text(identity_of(child.pid))
    monkeypatch.setattr(background, "STOP_SECONDS", 0.1)
    with pytest.raises(StageError, match=f"process {child.pid} does not end"):
        background.stop()
    child.kill()
    child.wait()
    child.stdout.close()


def test_pages_that_end_at_once_or_do_not_answer_are_told(pages: Any, capsys: Any, monkeypatch: Any) -> None:
    pages("print('no port')")
    with pytest.raises(StageError, match="the pages ended at once"):
        background.detach(["--mlflow-port", "5"])
    assert capsys.readouterr().out == "no port\n"
    pages("print('MLflow http (ran already)')")
    background.detach(["--mlflow-port", "5"])
    pages("import time; time.sleep(60)")
    monkeypatch.setattr(background, "START_SECONDS", 0.01)
    with pytest.raises(StageError, match="do not answer after"):
        background.detach(["--mlflow-port", "5"])


@pytest.mark.parametrize("record", ["{}", '{"process": 1', '{"process": "x", "started": 0}', '{"process": 4194305}'])
def test_a_record_of_no_process_is_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "pages.json").write_text(record)
    assert background.recorded(tmp_path / "pages.json") is None


def test_a_process_is_known_by_its_start_whatever_the_clock_says(tmp_path: Path) -> None:
    me, file = psutil.Process(), tmp_path / "pages.json"
    identity = json.loads(identity_of(me.pid))
    for change, known in (({}, True), ({"ticks": identity["ticks"] + 1}, False), ({"boot": "another"}, False)):
        file.write_text(json.dumps({**identity, **change}))
        assert background.recorded(file) == (me if known else None)


class Process:
    """A server that ends, or does not."""

    pid, returncode = 0, 3

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends

    def poll(self) -> int | None:
        return 3 if self.ends else None


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A page that answers at the ports in `open`."""
    monkeypatch.chdir(tmp_path)
    ui.LOGS.mkdir(parents=True)
    made = SimpleNamespace(name="MLflow", open=set(), path="/x", ours=lambda _: True)
    made.answers = lambda port: port in made.open
    (ui.LOGS / "mlflow.log").write_text("1\n2\n3\n4\n5\n6\n")
    return made


def test_a_server_that_ends_is_told_with_the_end_of_its_log(page: Any) -> None:
    ui.alive(page, Process())
    with pytest.raises(StageError, match=r"ended with code 3; .*mlflow.log:\n2\n3\n4\n5\n6$"):
        ui.wait(page, 5, Process(ends=True))


def test_a_server_has_two_minutes_to_answer(page: Any, monkeypatch: Any) -> None:
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > answers:
            page.open.add(5)

    monkeypatch.setattr(ui, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    answers = 119.0
    ui.wait(page, 5, Process())
    page.open.clear()
    answers, clock.now = 1e9, 0.0
    with pytest.raises(StageError, match="does not answer after 120 s"):
        ui.wait(page, 5, Process())


def test_another_port_is_taken_where_somebody_took_this_one(page: Any, monkeypatch: Any) -> None:
    started: list[int] = []

    def start(_: Any, port: int) -> Process:
        started.append(port)
        if port == 12:
            page.open.add(port)
        return Process(ends=port != 12)

    monkeypatch.setattr(ui, "free", lambda port, taken: max(taken) + 1)
    monkeypatch.setattr(ui, "start", start)
    with pytest.raises(StageError, match="ended with code 3"):
        ui.settle(page, 10, Process(ends=True), {10})
    (ui.LOGS / "mlflow.log").write_text("[Errno 98] Address already in use")
    same, port, process = ui.settle(page, 10, Process(ends=True), {10})
    assert (same, port, process.poll(), started) == (page, 12, None, [11, 12])
    del started[:]
    page.open.clear()
    monkeypatch.setattr(ui, "start", lambda _, port: started.append(port) or Process(ends=True))
    with pytest.raises(StageError, match="ended with code 3"):
        ui.settle(page, 10, Process(ends=True), {10})
    assert len(started) == ui.TRIES


def test_a_server_of_the_same_store_is_found_by_the_port_at_which_it_answers(page: Any, monkeypatch: Any) -> None:
    def listening(*ports: int, ours: bool = True) -> Any:
        rows = [SimpleNamespace(laddr=SimpleNamespace(port=port), status=psutil.CONN_LISTEN) for port in ports]
        rows.append(SimpleNamespace(laddr=SimpleNamespace(port=9), status=psutil.CONN_ESTABLISHED))
        return SimpleNamespace(net_connections=lambda kind: rows, ours=ours)

    def gone(_: str) -> Any:
        raise psutil.NoSuchProcess(1)

    page.ours = lambda process: process.ours
    found = [SimpleNamespace(net_connections=gone), listening(4, ours=False), listening(), listening(5, 6)]
    monkeypatch.setattr("tasks.servers.ui.psutil.process_iter", lambda: iter(found))
    page.open = {4, 6, 9}
    assert ui.running(page) == 6
    page.open = {4, 9}
    assert ui.running(page) is None
    del found[3]
    assert ui.running(page) is None


def test_servers_get_time_to_end_and_are_then_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "STOP_SECONDS", 0.2)
    stubborn = "trap '' TERM; echo; while :; do sleep 0.05; done"
    processes = [
        subprocess.Popen(["sh", "-c", text], stdout=subprocess.PIPE, start_new_session=True)
        for text in (stubborn, "echo; sleep 60")
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    began = time.monotonic()
    ui.end(processes)
    for process in processes:
        process.wait(40)  # A killed process of a loaded machine takes a moment to be gone.
    assert time.monotonic() - began < 50
    for process in processes:
        process.stdout.close()
