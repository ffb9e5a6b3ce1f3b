"""A lease at a server that answers late, not at all, or with errors; its answers are made up."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.exceptions import ObjectAlreadyExists, PrefectException

from flows.cluster import lease

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ERRORS = [httpx.ConnectError("away"), PrefectException("away"), RuntimeError("away")]


def status(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError(f"HTTP {code}", request=None, response=SimpleNamespace(status_code=code))


class Connection:
    """Gives `answers` by method one after the other, raises those that are errors, and notes what is asked."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers, self.asked = answers, []

    def create_variable(self, given: Any) -> Any:
        self.asked.append(("create", given.name, given.value))
        return SimpleNamespace(id=self._next("create"))

    def request(self, method: str, path: str, path_params: Any = None, json: Any = None) -> Any:
        self.asked.append((method, path, path_params, json))
        answer = self._next(method)
        return SimpleNamespace(headers={"Date": format_datetime(NOW, usegmt=True)}, json=lambda: answer)

    def _next(self, what: str) -> Any:
        answer = self.answers[what].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def row(number: int, machine: str = "there", age: float = 0.0, name: str = "arc-stage-k") -> dict[str, Any]:
    value = f'{{"machine": "{machine}", "process": null}}'
    return {"id": number, "name": name, "value": value, "updated": (NOW - timedelta(seconds=age)).isoformat()}


TAKEN = ObjectAlreadyExists(http_exc=None)


@pytest.fixture
def slept(place: Path, monkeypatch: Any) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def test_a_lease_that_ended_meanwhile_is_taken_at_once(slept: list[float]) -> None:
    server, said = Connection(create=[TAKEN, 7], GET=[status(404)]), []
    assert lease.take(server, "k", "train", "mine", said.append, lambda: False) == "7"
    asked = ("create", "arc-stage-k", "mine")
    assert server.asked == [asked, ("GET", "/variables/name/{name}", {"name": "arc-stage-k"}, None), asked]
    assert (said, slept) == ([], [])


def test_each_holder_is_named_once_and_asked_for_every_three_seconds(slept: list[float]) -> None:
    server, said = Connection(create=[TAKEN] * 5 + [9]), []
    server.answers["GET"] = [row(1, "a"), row(1, "a", 60.0), row(2, "b"), row(3, "a"), row(4, "a", 60.5)]
    server.answers["DELETE"] = [None]
    assert lease.take(server, "k", "train", "mine", said.append, lambda: False) == "9"
    assert said == [f"train waits: {name} computes the same" for name in ("a", "b", "a")]
    assert slept == [3.0] * 4
    assert [asked for asked in server.asked if asked[0] == "DELETE"] == [
        ("DELETE", "/variables/{id}", {"id": "4"}, None)
    ]


def test_only_a_lease_that_is_missing_is_no_error() -> None:
    assert lease._read(Connection(GET=[status(404)]), "k") is None
    lease._delete(Connection(DELETE=[status(404)]), "1")
    for code in (403, 405, 500):
        with pytest.raises(httpx.HTTPStatusError, match=f"HTTP {code}"):
            lease._read(Connection(GET=[status(code)]), "k")
        with pytest.raises(httpx.HTTPStatusError, match=f"HTTP {code}"):
            lease._delete(Connection(DELETE=[status(code)]), "1")


@pytest.mark.parametrize("value", ["no JSON", '{"process": null}', '{"machine": "x"}', "[1]", "7"])
def test_a_lease_that_somebody_wrote_is_that_of_an_unknown_machine(value: str) -> None:
    read = lease._read(Connection(GET=[row(5, age=12.0) | {"value": value}]), "k")
    assert read == ("5", "an unknown machine", None, 12.0)


def test_expired_leases_of_any_stage_are_deleted_and_nothing_else(place: Path) -> None:
    rows = [
        row(1, age=60.0),
        row(2, age=60.5),
        row(3, age=99.0, name="arc-stagex"),
        row(4, age=61.0, name="arc-stage-q"),
    ]
    server = Connection(POST=[rows], DELETE=[None, status(404)])
    assert lease.forget_expired(server) == 2
    wanted = {"variables": {"name": {"like_": "arc-stage-%"}}, "limit": 200}
    assert server.asked[0] == ("POST", "/variables/filter", None, wanted)
    assert [asked[2] for asked in server.asked[1:]] == [{"id": "2"}, {"id": "4"}]


def test_a_lease_is_renewed_every_fifteen_seconds_whatever_the_server_answers() -> None:
    server, waited = Connection(PATCH=[None, *ERRORS, None]), []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return not server.answers["PATCH"]

    lease._renew(server, "7", "mine", SimpleNamespace(wait=wait))
    assert waited == [15.0] * 6
    assert server.asked == [("PATCH", "/variables/{id}", {"id": "7"}, {"value": "mine"})] * 5


def holding(monkeypatch: Any, server: Any) -> None:
    @contextlib.contextmanager
    def client(sync_client: bool) -> Iterator[Any]:
        assert sync_client is True
        if isinstance(server, Exception):
            raise server
        yield server

    monkeypatch.setattr(lease, "get_client", client)


def renewing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if getattr(thread, "_target", None) is lease._renew]


@pytest.mark.parametrize("error", [None, *ERRORS], ids=repr)
def test_a_lease_is_given_back_or_expires(place: Path, monkeypatch: Any, error: Exception | None) -> None:
    server = Connection(create=[7, 8], DELETE=[error, error])
    holding(monkeypatch, server)

    def fail() -> None:
        with lease.held("k", "train", print, lambda: False):
            raise KeyError("ours")

    with lease.held("k", "train", print, lambda: False) as mine:
        assert mine is True
        [thread] = renewing()
        assert thread.daemon is True
        assert [asked[0] for asked in server.asked] == ["create"]
    assert renewing() == []
    with pytest.raises(KeyError, match="ours"):
        fail()
    assert renewing() == []
    assert [(asked[0], asked[2]) for asked in server.asked if asked[0] == "DELETE"] == [
        ("DELETE", {"id": number}) for number in ("7", "8")
    ]


def test_what_is_done_needs_no_lease_and_gives_none_back(place: Path, monkeypatch: Any) -> None:
    server = Connection()
    holding(monkeypatch, server)
    with lease.held("k", "train", print, lambda: True) as mine:
        assert mine is False
        assert renewing() == []
    assert server.asked == []


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_without_a_server_a_stage_is_computed(place: Path, monkeypatch: Any, error: Exception) -> None:
    said: list[str] = []
    for server in (error, Connection(create=[error])):
        holding(monkeypatch, server)
        with lease.held("k", "train", said.append, lambda: False) as mine:
            assert mine is True
    assert said == ["train is computed without a lease, since the server does not answer: away"] * 2
