"""Names of machines and workers, and who of them lives by the answer of a server that is made up."""

import hashlib
import os
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cluster import owners, settings


def test_a_machine_is_named_by_its_host_and_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b-" + "c" * 40)
    name = "a-b-" + "c" * 36 + "-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:6]
    assert owners.machine() == name
    assert owners.worker_name() == f"{name}-{os.getpid()}"


@pytest.mark.parametrize(
    ("labels", "here"),
    [
        ({"prefect.worker.name": "here-12"}, True),
        ({"prefect.worker.name": "here"}, False),
        ({"prefect.worker.name": "here-x-12"}, False),
        ({"prefect.worker.name": "there-12"}, False),
        ({"other": "here-12"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_run_is_here_where_its_worker_is_one_of_this_clone(
    place: Path, monkeypatch: Any, labels: Any, here: bool
) -> None:
    run = SimpleNamespace(labels=labels)
    monkeypatch.setattr(settings, "alone", lambda: False)
    assert owners.here(run) is here
    assert owners.owner(run) == (labels or {}).get("prefect.worker.name", "")
    monkeypatch.setattr(settings, "alone", lambda: True)
    assert owners.here(run) is True, "nobody else works on the queue"


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def worker(name: str, seconds: float | None, interval: int | None = 30) -> dict[str, Any]:
    last = None if seconds is None else (NOW - timedelta(seconds=seconds)).isoformat()
    return {"name": name, "last_heartbeat_time": last, "heartbeat_interval_seconds": interval}


def test_the_living_are_counted_by_the_servers_clock() -> None:
    rows = [
        *(worker("a", 0), worker("b", 90), worker("c", 90.5), worker("d", None)),
        *(worker("e", 6, 2), worker("f", 6.5, 2), worker("g", 90, None), worker("h", 90.5, None)),
    ]
    asked: list[Any] = []

    def request(method: str, path: str, path_params: Any, json: Any) -> Any:
        asked.append((method, path, path_params, json))
        return SimpleNamespace(headers={"Date": format_datetime(NOW, usegmt=True)}, json=lambda: rows)

    connection: Any = SimpleNamespace(request=request)
    assert owners.online(connection, "pool") == {"a", "b", "e", "g"}
    wanted = {"workers": {"status": {"any_": ["ONLINE"]}}, "limit": 200}
    assert asked == [("POST", "/work_pools/{work_pool_name}/workers/filter", {"work_pool_name": "pool"}, wanted)]


def test_a_worker_has_fifteen_seconds_to_name_itself(monkeypatch: Any) -> None:
    run = SimpleNamespace(state=SimpleNamespace(timestamp=NOW))
    for seconds, starting in ((0.0, True), (14.5, True), (15.0, False), (15.5, False)):
        monkeypatch.setattr(owners, "time", SimpleNamespace(time=lambda: NOW.timestamp() + seconds))  # noqa: B023
        assert owners.starting(run) is starting


def test_workers_return_within_four_heartbeats(place: Path) -> None:
    os.environ.pop("PREFECT_WORKER_HEARTBEAT_SECONDS", None)
    assert owners.return_seconds() == 120.0
    os.environ["PREFECT_WORKER_HEARTBEAT_SECONDS"] = "2.5"
    assert owners.return_seconds() == 10.0
