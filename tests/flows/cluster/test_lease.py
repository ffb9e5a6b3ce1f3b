"""Leases on stages with a real server: one machine computes, the others wait, and the dead are not waited for."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from flows.cluster import lease
from tests.support.flows_lab import Lab, lab, until  # noqa: F401
from tests.support.shared_stage import COUNT, Machines

pytestmark = [pytest.mark.slow, pytest.mark.night]
WAIT = "import os, pathlib, time\nwhile pathlib.Path(os.environ['COUNTS'] + '.wait').exists(): time.sleep(0.1)\n"


@pytest.fixture
def machines(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines whose stage first waits for a file to go away; the file is there."""
    lab.arc("queue", "--list")
    made = Machines(tmp_path_factory.mktemp("machines"))
    made.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{lab.port}/api"
    made.environment["PREFECT_API_AUTH_STRING"] = (lab.folder / ".prefect" / "secret").read_text().strip()
    Path(f"{made.counts}.wait").touch()
    yield made
    Path(f"{made.counts}.wait").unlink(missing_ok=True)  # What is left of a killed stage ends.


def clone(machines: Machines, name: str) -> Path:
    folder = machines.clone(name)
    (folder / "count.py").write_text(COUNT + WAIT)
    return folder


def leases(lab: Lab) -> list[str]:
    """The leases on the server, by the query that looks for expired ones."""
    wanted = {"variables": {"name": {"like_": f"{lease.PREFIX}%"}}, "limit": 200}
    return [row["name"] for row in lab.api("/variables/filter", wanted)]


def test_one_computes_and_the_others_wait_and_take_it(lab: Lab, machines: Machines) -> None:
    a, b, c = (clone(machines, name) for name in "abc")
    first = machines.start(a)
    until(lambda: machines.computed() == 1, 30)
    others = [machines.start(b), machines.start(c)]
    for other in others:
        assert other.stdout
        assert "count waits" in other.stdout.readline()
    assert len(leases(lab)) == 1
    Path(f"{machines.counts}.wait").unlink()
    began = time.monotonic()
    for process in (first, *others):
        text, _ = process.communicate(timeout=90)
        assert process.returncode == 0, text
    print(f"the others had it {time.monotonic() - began:.1f} s later")
    assert machines.computed() == 1
    assert all((folder / "counted.txt").exists() for folder in (a, b, c))
    assert leases(lab) == []


def test_a_dead_holder_is_not_waited_for(lab: Lab, machines: Machines) -> None:
    a, b = clone(machines, "a"), clone(machines, "b")
    first = machines.start(a)
    until(lambda: machines.computed() == 1, 30)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    began = time.monotonic()
    other = machines.start(b)
    # The same machine knows that its process is dead, and another one waits until the lease expires.
    again = machines.start(a)
    until(lambda: machines.computed() == 2, 20)
    print(f"the same machine went on after {time.monotonic() - began:.1f} s")
    os.kill(again.pid, signal.SIGKILL)
    again.wait()
    killed = time.monotonic()
    until(lambda: machines.computed() == 3, 80)
    print(f"another machine went on after {time.monotonic() - killed:.1f} s")
    Path(f"{machines.counts}.wait").unlink()
    text, _ = other.communicate(timeout=60)
    assert other.returncode == 0, text
    assert leases(lab) == []


def test_leases_of_the_dead_are_removed_and_those_of_the_living_stay() -> None:
    def row(number: int, name: str, updated: str) -> dict[str, str]:
        return {"id": str(number), "name": name, "updated": f"2026-11-25T{updated}Z", "value": "{}"}

    class Server:
        deleted: ClassVar[list[str]] = []

        def request(self, method: str, path: str, path_params: Any = None, json: Any = None) -> httpx.Response:
            if method == "DELETE":
                self.deleted.append(path_params["id"])
            rows = [
                row(1, "arc-stage-a", "11:58:59"),
                row(2, "arc-stage-b", "11:59:30"),
                row(3, "somebody-elses", "01:00:00"),
            ]
            return httpx.Response(200, headers={"Date": "Wed, 25 Nov 2026 12:00:00 GMT"}, json=rows)

    server: Any = Server()
    assert lease.forget_expired(server) == 1
    assert server.deleted == ["1"]


def test_a_failed_stage_leaves_no_lease(lab: Lab, machines: Machines) -> None:
    a, b = clone(machines, "a"), clone(machines, "b")
    for folder in (a, b):
        (folder / "count.py").write_text("raise SystemExit(3)")
    assert "exited with 3" in machines.run(a, code=255)
    assert leases(lab) == []
    assert "waits" not in machines.run(b, code=255)


def test_a_server_that_restarts_keeps_the_lease(lab: Lab, machines: Machines) -> None:
    a, b = clone(machines, "a"), clone(machines, "b")
    first = machines.start(a)
    until(lambda: machines.computed() == 1, 30)
    server = lab.process(None, "server", "start")
    server.kill()
    server.wait(30)
    lab.arc("queue", "--list")
    other = machines.start(b)
    assert other.stdout
    assert "count waits" in other.stdout.readline()
    Path(f"{machines.counts}.wait").unlink()
    for process in (first, other):
        text, _ = process.communicate(timeout=90)
        assert process.returncode == 0, text
    assert machines.computed() == 1
    assert leases(lab) == []
