"""Whose lease is waited for, renewed and forgotten, at a server that is made up."""

import json
import os
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.exceptions import ObjectAlreadyExists

from flows.cluster import lease
from tasks.servers import process_identity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Variables:
    """Variables of Prefect's server, whose clock stands still; `ages` are seconds since their renewal."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.made = 0

    def put(self, name: str, value: Any, age: float) -> str:
        self.made += 1
        updated = datetime.fromtimestamp(NOW.timestamp() - age, UTC).isoformat()
        self.rows[name] = {"id": str(self.made), "name": name, "value": value, "updated": updated}
        return str(self.made)

    def create_variable(self, given: Any) -> Any:
        if given.name in self.rows:
            raise ObjectAlreadyExists(http_exc=None)
        return SimpleNamespace(id=self.put(given.name, given.value, 0.0))

    def request(self, method: str, path: str, path_params: Any = None, json: Any = None) -> Any:
        answer = SimpleNamespace(headers={"Date": format_datetime(NOW, usegmt=True)}, status_code=404)
        known = [row for row in self.rows.values() if path_params and row["id"] == path_params.get("id")]
        if method == "POST":
            answer.json = lambda: list(self.rows.values())
        elif method == "GET" and path_params["name"] in self.rows:
            answer.json = lambda: self.rows[path_params["name"]]
        elif method == "DELETE" and known:
            del self.rows[known[0]["name"]]
        elif method == "PATCH" and known:
            known[0]["value"] = json["value"]
        else:
            raise httpx.HTTPStatusError("missing", request=None, response=answer)
        return answer


def holder(machine: str, process: Any = None) -> str:
    return json.dumps({"machine": machine, "process": process})


ME = process_identity.identity(os.getpid())


@pytest.mark.parametrize(
    ("machine", "process", "age", "waits"),
    [
        ("there", None, 59.0, True),
        ("there", None, 61.0, False),
        ("here", ME.model_dump() if ME else None, 0.0, True),
        ("here", {"process": 4194305, "boot": "x", "ticks": 1}, 0.0, False),
        ("here", {"process": "?"}, 0.0, True),
    ],
)
def test_a_lease_is_waited_for_unless_its_holder_is_dead(
    place: Path, monkeypatch: Any, machine: str, process: Any, age: float, waits: bool
) -> None:
    server, said = Variables(), []
    server.put("arc-stage-k", holder(machine, process), age)
    looks = iter([False, False, False, True])
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=lambda _: None))
    number = lease.take(server, "k", "train", "mine", said.append, lambda: next(looks))
    assert (number is None) == waits
    assert said == ([f"train waits: {machine} computes the same"] if waits else [])
    assert (server.rows["arc-stage-k"]["value"] == "mine") != waits


def test_a_lease_that_somebody_edited_or_that_is_gone_is_no_error(place: Path, monkeypatch: Any) -> None:
    server, said = Variables(), []
    server.put("arc-stage-k", "no JSON", 0.0)
    looks = iter([False, True])
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=lambda _: None))
    assert lease.take(server, "k", "train", "mine", said.append, lambda: next(looks)) is None
    assert said == ["train waits: an unknown machine computes the same"]
    lease._delete(server, "99")
    server.rows.clear()
    assert lease._read(server, "k") is None
    for name, age in (("arc-stage-old", 61.0), ("arc-stage-new", 59.0), ("other", 1e6)):
        server.put(name, "x", age)
    assert lease.forget_expired(server) == 1
    assert set(server.rows) == {"arc-stage-new", "other"}


def test_a_lease_is_renewed_and_given_back(place: Path, monkeypatch: Any) -> None:
    server, said = Variables(), []

    class Connection:
        def __enter__(self) -> Variables:
            return server

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(lease, "get_client", lambda sync_client: Connection())
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    with lease.held("k", "train", said.append, lambda: False) as mine:
        assert mine
        first = server.rows["arc-stage-k"]["value"]
        assert json.loads(first)["process"]["process"] == os.getpid()
        server.rows["arc-stage-k"]["value"] = "edited"
        deadline = time.monotonic() + 60
        while server.rows["arc-stage-k"]["value"] != first:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert server.rows == {}
    with lease.held("k", "train", said.append, lambda: True) as mine:
        assert not mine

    def away(sync_client: bool) -> Any:
        raise RuntimeError("away")

    monkeypatch.setattr(lease, "get_client", away)
    with lease.held("k", "train", said.append, lambda: False) as mine:
        assert mine
    assert said == ["train is computed without a lease, since the server does not answer: away"]
