"""When the queue is held and goes on, to the byte and the second, and what waiting runs are told."""

import os
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from flows.cluster import dvc_remote, settings
from flows.queue import flow_runs
from flows.runs.places import FlowError
from flows.worker import hold
from tests.support.made_up_server import Server, run

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with two disks, two GPUs and a DVC remote; `now` is its clock, and `asked` counts looks at GPUs."""
    has = SimpleNamespace(now=1000.0, first=9 * GIB, second=9 * GIB, memory=9 * GIB, gpus=2, away="", asked=0, looks=0)

    def gpus() -> int:
        has.asked += 1
        return int(has.gpus)

    def away() -> str:
        has.looks += 1
        return str(has.away)

    free = lambda path: SimpleNamespace(free=has.first if path == Path("/a") else has.second)  # noqa: E731
    monkeypatch.delenv(hold.LIMIT_VARIABLE, raising=False)
    monkeypatch.setattr(hold, "folders", lambda: {"one": Path("/a"), "two": Path("/b")})
    monkeypatch.setattr(hold, "gpus", gpus)
    monkeypatch.setattr(hold, "shutil", SimpleNamespace(disk_usage=free))
    monkeypatch.setattr(hold, "time", SimpleNamespace(monotonic=lambda: has.now))
    memory = lambda: SimpleNamespace(available=has.memory)  # noqa: E731
    monkeypatch.setattr(hold, "psutil", SimpleNamespace(virtual_memory=memory))
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr(dvc_remote, "configured", lambda _: True)
    monkeypatch.setattr(dvc_remote, "away", away)
    return has


@pytest.mark.parametrize(
    ("what", "limit", "says"),
    [
        ("first", 2 * GIB, "{} GiB free at /a (one); it goes on from 2.40 GiB"),
        ("second", 2 * GIB, "{} GiB free at /b (two); it goes on from 2.40 GiB"),
        ("memory", GIB, "{} GiB of memory available; it goes on from 1.20 GiB"),
    ],
)
def test_what_is_short_is_so_until_there_is_a_fifth_more(machine: Any, what: str, limit: int, says: str) -> None:
    held = hold.Hold()
    setattr(machine, what, limit)
    assert held.check_here() == []
    setattr(machine, what, limit - 1)
    short = says.format(f"{limit / GIB:.2f}")
    assert held.check_here() == [f"this machine takes no runs: {short}"]
    assert held.reason == short
    for free in (limit, int(1.199 * limit)):
        setattr(machine, what, free)
        assert held.check_here() == []
        assert held.reason
    setattr(machine, what, int(1.2 * limit) + 1)
    assert held.check_here() == ["this machine takes runs again"]
    assert held.reason == ""


def test_the_limit_is_a_number_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, limit in (("", 2.0), ("0", 0.0), ("0.5", 0.5), ("999999", 999999.0)):
        monkeypatch.setenv(hold.LIMIT_VARIABLE, text)
        assert hold.limit_gib() == limit
    for text in ("-0.1", "1000000", "much" * 20):
        monkeypatch.setenv(hold.LIMIT_VARIABLE, text)
        with pytest.raises(FlowError) as refused:
            hold.limit_gib()
        assert str(refused.value) == f"ARC_HOLD_GIB is {text[:40]!r}; allowed is a number of GiB, from 0 on"


def test_gpus_are_looked_for_every_30_seconds(machine: Any) -> None:
    held = hold.Hold()
    assert (held.shortage(), machine.asked) == ("", 2)
    machine.gpus, machine.now = 1, 1030.0
    assert (held.shortage(), machine.asked) == ("", 2)
    machine.now = 1030.1
    assert (held.shortage(), machine.asked) == ("1 of 2 GPUs answer nvidia-smi", 3)
    machine.gpus, machine.now = 2, 1050.0
    assert held.shortage() == "1 of 2 GPUs answer nvidia-smi"
    machine.now = 1060.2
    assert (held.shortage(), machine.asked) == ("", 4)
    machine.gpus = 0
    without = hold.Hold()
    machine.now = 2000.0
    assert (without.shortage(), machine.asked) == ("", 5), "a machine without GPUs misses none"


def test_the_remote_is_looked_at_every_minute_and_sooner_while_it_is_away(machine: Any) -> None:
    held = hold.Hold()
    for now, away, told, looks in (
        (1000.0, "", "", 1),
        (1059.9, "gone", "", 1),
        (1060.0, "gone", "gone", 2),
        (1074.9, "", "gone", 2),
        (1075.0, "", "", 3),
        (1134.9, "gone", "", 3),
        (1135.0, "gone", "gone", 4),
    ):
        machine.now, machine.away = now, away
        assert (held.shortage(), machine.looks) == (told, looks)
    machine.gpus, machine.now = 1, 1200.0
    assert held.shortage() == "1 of 2 GPUs answer nvidia-smi", "which comes first"


@pytest.mark.parametrize(("joined", "configured"), [(True, False), (False, True)])
def test_no_remote_is_missed_where_there_is_none(
    machine: Any, monkeypatch: Any, joined: bool, configured: bool
) -> None:
    monkeypatch.setattr(settings, "joined", lambda: joined)
    monkeypatch.setattr(dvc_remote, "configured", lambda _: configured)
    held = hold.Hold()
    machine.away = "gone"
    assert (held.shortage(), machine.looks) == ("", 0)


class Pool(Server):
    """Keeps the descriptions of the pool; refuses them while it is away."""

    away = False

    def update_work_pool(self, name: str, update: Any) -> None:
        assert name == "gpu"
        if self.away:
            raise OSError("away")
        self.said.append(update.description)


def test_the_page_is_told_of_each_change_once(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    waits = run(StateType.SCHEDULED, "waits", next_scheduled_start_time=None, expected_start_time=now)
    later = run(StateType.SCHEDULED, "later", next_scheduled_start_time=now + timedelta(hours=1))
    never = run(StateType.SCHEDULED, "never", next_scheduled_start_time=None, expected_start_time=None)
    server: Any = Pool(waits, later, never)
    monkeypatch.setattr(flow_runs, "runs", lambda connection, *kinds: connection.of(*kinds))
    held = hold.Hold()
    assert held.check(server) == []
    assert server.said == ["One slot per GPU."]
    assert held.check(server) == []
    machine.first, server.away = GIB, True
    with pytest.raises(OSError, match="away"):
        held.check(server)
    server.away = False
    why = "Held: 1.00 GiB free at /a (one); it goes on from 2.40 GiB"
    assert held.check(server) == [f"the queue is held: {held.reason}"], "the line is not lost with the server"
    assert held.reason == why.removeprefix("Held: ")
    assert server.said == ["One slot per GPU.", why]
    machine.first = 1.5 * GIB
    assert held.check(server) == []
    assert len(server.said) == 2, "space changes with every look"
    _, told = server.states[waits.id]
    assert (told.name, told.message, told.state_details.scheduled_time) == ("Held", why, now)
    machine.first = 9 * GIB
    assert held.check(server) == ["the queue goes on"]
    assert server.said[2:] == ["One slot per GPU."]
    assert [(given.name, given.message) for given in server.states[waits.id][2:]] == [("Scheduled", None)]
    assert len(server.states[later.id]) == len(server.states[never.id]) == 1
    machine.memory = 0
    assert held.check(server) == ["the queue is held: 0.00 GiB of memory available; it goes on from 1.20 GiB"]


def test_gpus_that_answer_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, done = [], SimpleNamespace(returncode=0, stdout="GPU 0: H100\nGPU 1: H100\n")

    def answer(command: list[str], **options: Any) -> Any:
        asked.append((command, options))
        if done.returncode is None:
            raise subprocess.TimeoutExpired("nvidia-smi", 20)
        return done

    made = SimpleNamespace(run=answer, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(hold, "subprocess", made)
    monkeypatch.setattr(hold, "shutil", SimpleNamespace(which=lambda _: None))
    assert hold.gpus() == 0
    monkeypatch.setattr(hold, "shutil", SimpleNamespace(which=lambda name: name == "nvidia-smi"))
    for code, count in ((0, 2), (1, 0), (-9, 0), (None, 0)):
        done.returncode = code
        assert hold.gpus() == count
    assert asked[0] == (["nvidia-smi", "-L"], {"capture_output": True, "text": True, "timeout": 20})


def test_each_disk_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path)})
    for name in ("ARC_SCRATCH", "PREFECT_HOME", "PREFECT_API_URL"):
        os.environ.pop(name, None)
    script = tmp_path / "bin" / "dvc"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n[ \"$*\" = 'cache dir' ] && echo cache\n")
    script.chmod(0o755)
    os.environ["PATH"] = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc")
    assert hold.folders() == {"results and databases": tmp_path, "temporary files": Path("/proc")}
    assert hold.cache(tmp_path) == tmp_path / "cache"
    os.environ["ARC_SCRATCH"] = "/sys"
    assert list(hold.folders()) == ["results and databases", "scratch", "temporary files"]
    script.write_text("#!/bin/sh\necho ' broken ' >&2\nexit 1\n")
    with pytest.raises(FlowError) as refused:
        hold.cache(tmp_path)
    assert str(refused.value) == f"dvc cache dir in {tmp_path}: broken"
