"""Which server is asked, found and started, and how long one that starts may take; clock and processes are made up."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.runs.places import FlowError
from flows.worker import server
from tasks.servers import prefect_server, ui

HERE = "http://127.0.0.1:4200/api"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone whose server would be at 4200."""
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path)})
    for name in ("ARC_SCRATCH", "PREFECT_API_URL", "PREFECT_SERVER_API_PORT", "PREFECT_SERVER_API_HOST"):
        os.environ.pop(name, None)
    (tmp_path / ".prefect").mkdir()
    return tmp_path


def test_a_server_answers_with_200_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for code, answers in ((200, True), (201, False), (199, False), (401, False), (0, False)):
        monkeypatch.setattr(
            prefect_server, "status", lambda url, seconds, code=code: asked.append((url, seconds)) or code
        )
        assert server.answers() == answers
    server.answers(0.5)
    assert asked == [(f"{HERE}/health", 2.0)] * 5 + [(f"{HERE}/health", 0.5)]
    os.environ["PREFECT_API_URL"] = "http://there/api"
    server.answers()
    assert asked[-1] == ("http://there/api/health", 2.0)


def test_a_process_that_ends_meanwhile_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(_: Any) -> bool:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(ui, "prefect_page", lambda: SimpleNamespace(ours=ours))
    monkeypatch.setattr(server, "listener", lambda: psutil.Process())
    assert server.ours() is False
    monkeypatch.setattr(ui, "prefect_page", lambda: SimpleNamespace(ours=lambda _: True))
    assert server.ours() is True
    monkeypatch.setattr(server, "listener", lambda: None)
    assert server.ours() is False


class Listening:
    """A process that listens on a port, has a connection to it, or cannot be asked."""

    def __init__(self, port: int, status: str = psutil.CONN_LISTEN, closed: bool = False) -> None:
        self.port, self.status, self.closed = port, status, closed

    def net_connections(self, kind: str) -> list[Any]:
        assert kind == "tcp"
        if self.closed:
            raise psutil.AccessDenied
        return [SimpleNamespace(laddr=SimpleNamespace(port=self.port), status=self.status)]


def test_who_listens_on_the_port_is_found_among_those_that_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Listening(4200)
    others = [Listening(4200, closed=True), Listening(4201), Listening(4200, psutil.CONN_ESTABLISHED)]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter([*others, wanted, Listening(4200)]))
    assert server.listener() is wanted
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(others))
    assert server.listener() is None


@pytest.mark.parametrize(
    ("chosen", "answers", "ours", "running", "port"),
    [
        ("http://there/api", False, False, 4300, None),
        ("", True, True, 4300, None),
        ("", True, False, 4300, "4300"),
        ("", False, True, 4300, "4300"),
        ("", False, False, 4200, None),
        ("", False, False, None, None),
    ],
)
def test_a_server_on_another_port_is_found(
    monkeypatch: pytest.MonkeyPatch, chosen: str, answers: bool, ours: bool, running: int | None, port: str | None
) -> None:
    os.environ["PREFECT_API_URL"] = chosen
    monkeypatch.setattr(server, "answers", lambda: answers)
    monkeypatch.setattr(server, "ours", lambda: ours)
    monkeypatch.setattr(ui, "running", lambda page: running if page.name == "Prefect" else None)
    server.find()
    assert os.environ.get("PREFECT_SERVER_API_PORT") == port
    if port:
        assert f":{port}" in os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"]


def test_a_server_that_another_command_has_started_meanwhile_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, started = iter([False, True]), []
    monkeypatch.setattr(server, "find", lambda: None)
    monkeypatch.setattr(server, "answers", lambda: next(looks))
    monkeypatch.setattr(server, "_start", lambda: started.append(1))
    server.ensure()
    assert started == []
    assert list(looks) == []


def test_each_refusal_says_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def refused(ensure: Any = server.ensure) -> None:
        with pytest.raises(FlowError) as error:
            ensure()
        said.append(str(error.value))

    monkeypatch.setattr(server, "find", lambda: None)
    monkeypatch.setattr(server, "ours", lambda: False)
    monkeypatch.setattr(server, "answers", lambda: True)
    refused()
    monkeypatch.setattr(server, "listener", lambda: None)
    codes: dict[bool, int] = {}
    asked = set()
    monkeypatch.setattr(prefect_server, "status", lambda url, key: asked.add((url, bool(key))) or codes[bool(key)])
    for ours, nobody in ((403, 403), (400, 199), (402, 201)):
        codes.update({True: ours, False: nobody})
        server.check_secret()
    assert asked == {(f"{HERE}/admin/version", True), (f"{HERE}/admin/version", False)}
    for codes[True], codes[False] in ((401, 200), (200, 200)):
        refused(server.check_secret)
    monkeypatch.setattr(server, "answers", lambda: False)
    os.environ["PREFECT_API_URL"] = "http://there/api"
    refused()
    again = "end it once its runs have ended, and `arc worker` starts it again"
    assert said == [
        f"the server at {HERE} belongs to another checkout; set PREFECT_SERVER_API_PORT to a free port, for every "
        "command here",
        f"the server at {HERE} refuses the secret in {place}/.prefect/secret; {again}",
        f"the server at {HERE} was started without a secret, so anybody may use it; {again}",
        "http://there/api (PREFECT_API_URL) does not answer; start that server, or unset the variable",
    ]


@pytest.mark.parametrize(
    ("cpu", "step", "seconds", "used"),
    [
        (lambda _: 0.0, 40.0, "160 s", "0 s"),  # 120 s are not more than 120 s.
        (lambda now: now / 40, 40.0, "2440 s", "61 s"),  # 60 s of CPU time are not more than 60 s.
        (lambda now: now / 41, 40.0, "2480 s", "60 s"),  # A loaded machine: more than a second in every second look.
        (lambda now: 0.99 if now else 0.0, 50.0, "150 s", "0 s"),
    ],
)
def test_a_server_that_starts_has_120_seconds_and_more_while_it_computes(
    place: Path, monkeypatch: pytest.MonkeyPatch, cpu: Any, step: float, seconds: str, used: str
) -> None:
    clock = SimpleNamespace(now=0.0, slept=set())

    def sleep(seconds: float) -> None:
        clock.slept.add(seconds)
        clock.now += step

    started = []
    popen = lambda command, **options: started.append(options) or SimpleNamespace(pid=7, poll=lambda: None)  # noqa: E731
    monkeypatch.setattr(server, "subprocess", SimpleNamespace(Popen=popen, DEVNULL=-3))
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    monkeypatch.setattr(server, "cpu_seconds", lambda pid: cpu(clock.now) if pid == 7 else -1)
    monkeypatch.setattr(server, "answers", lambda: False)
    with pytest.raises(FlowError) as late:
        server._start()
    log = place / ".prefect" / "server.log"
    took = f"{seconds} and {used} of CPU time"
    assert str(late.value) == f"the server does not answer at {HERE} after {took}; see {log}"
    assert clock.slept == {0.2}
    [options] = started
    assert (options["cwd"], options["stdin"], options["umask"]) == (place, -3, 0o077)
    assert options["stdout"] is options["stderr"]
    assert options["start_new_session"] is True
    assert options["env"]["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_cpu_time_of_a_process_and_of_one_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(user=2.5, system=0.25, children_user=9.0)
    monkeypatch.setattr(psutil.Process, "cpu_times", lambda _: times)
    assert server.cpu_seconds(os.getpid()) == 2.75
    assert server.cpu_seconds(2**22 + 1) == 0.0
