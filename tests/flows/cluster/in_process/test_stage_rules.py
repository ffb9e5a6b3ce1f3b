"""When a stage waits, is taken, computed, shared and tried again; DVC, the remote and the lease are made up."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc import cli
from dvc.exceptions import DvcException
from dvc.stage.exceptions import StageCmdFailedError

from flows.cluster import lease, stage


class Store:
    """A remote that notes what is asked of it; `reasons` are the answers to whether it is away, then it is not."""

    def __init__(self, *reasons: str, key: str = "k", here: bool = False, there: bool = False) -> None:
        self.reasons, self.found, self.here, self.there = list(reasons), key, here, there
        self.did: list[Any] = []
        self.error: Exception | None = None

    def away(self) -> str:
        return self.reasons.pop(0) if self.reasons else ""

    def key(self, name: str) -> str:
        return self.found

    def pull_one_run(self, key: str) -> None:
        self.did.append(("entries", key))

    def run_is_here(self, key: str) -> bool:
        self.did.append(("here", key))
        return self.here

    def fetch_run(self, key: str) -> bool:
        self.did.append(("there", key))
        return self.there

    def push(self, name: str) -> None:
        self.did.append(("push", name))
        if self.error:
            raise self.error


def failed(error: BaseException) -> logging.LogRecord:
    """A record of the logger as `logger.exception` makes it."""
    return logging.LogRecord("dvc", logging.ERROR, "", 0, "", None, (type(error), error, None))


def after(error: BaseException, *, cause: BaseException | None = None, context: BaseException | None = None) -> Any:
    error.__cause__, error.__context__ = cause, context
    return error


def test_a_failed_command_is_known_from_the_errors_that_dvc_reports() -> None:
    command = StageCmdFailedError
    for error, known in (
        (command("x"), True),
        (after(DvcException("x"), cause=command("x")), True),
        (after(DvcException("x"), context=command("x")), True),
        (after(DvcException("x"), context=after(OSError(), cause=command("x"))), True),
        (after(command("x"), cause=command("x")), True),
        (after(command("x"), cause=OSError()), True),
        (after(DvcException("x"), cause=OSError(), context=command("x")), False),
        (DvcException("x"), False),
    ):
        handler = stage._StageFailed()
        handler.emit(failed(error))
        assert handler.seen is known, repr(error)
    handler = stage._StageFailed()
    handler.emit(logging.LogRecord("dvc", logging.INFO, "", 0, "a line", None, None))
    assert handler.seen is False
    handler.emit(failed(command("x")))
    handler.emit(failed(OSError()))
    assert handler.seen is True, "of all errors"


@pytest.fixture
def slept(place: Path, monkeypatch: Any) -> list[float]:
    """Seconds that were waited."""
    seconds: list[float] = []
    monkeypatch.setattr(stage, "time", SimpleNamespace(sleep=seconds.append))
    monkeypatch.setattr(logging.getLogger("dvc"), "handlers", [])
    return seconds


def test_a_remote_that_is_away_is_waited_for_and_named_once(slept: list[float], capsys: Any) -> None:
    stage._wait(Store("no folder", "no answer", "no folder"), "count")
    assert slept == [10.0] * 3
    assert capsys.readouterr().out == (
        "count waits, since DVC's remote is away: no folder\ncount goes on: DVC's remote is back\n"
    )
    stage._wait(Store(), "count")
    assert slept == [10.0] * 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("outcomes", "reasons", "code", "waits"),
    [
        # Of each try: a code, or an error. Whether the remote is away: before each try, and after one that failed.
        ([0], ["", "not asked for"], 0, 0),
        ([3], ["", ""], 3, 0),
        ([255, 0], ["", "away", "away"], 0, 1),
        ([OSError("cut off"), 255, 0], ["", "away", "", "away"], 0, 0),
        ([StageCmdFailedError("x")], ["", "not asked for"], 255, 0),
    ],
)
def test_a_stage_is_tried_again_only_where_the_remote_is_away(
    slept: list[float], monkeypatch: Any, outcomes: list[Any], reasons: list[str], code: int, waits: int
) -> None:
    store = Store(*reasons)

    def run(given: Any, name: str) -> int:
        assert (given, name) == (store, "count")
        outcome = outcomes.pop(0)
        if isinstance(outcome, StageCmdFailedError):
            logging.getLogger("dvc.repo").error("failed", exc_info=outcome)
            return 255
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)

    monkeypatch.setattr(stage, "RemoteStore", lambda: store)
    monkeypatch.setattr(stage, "_run", run)
    assert stage.main("count") == code
    assert outcomes == []
    assert store.reasons == [reason for reason in reasons if reason == "not asked for"]
    assert slept == [10.0] * waits


def test_an_error_of_our_own_is_raised_where_the_remote_is_there(slept: list[float], monkeypatch: Any) -> None:
    tries = []

    def run(*_: Any) -> int:
        tries.append("x")
        raise KeyError("k")

    monkeypatch.setattr(stage, "RemoteStore", lambda: Store("", "away", "", ""))
    monkeypatch.setattr(stage, "_run", run)
    with pytest.raises(KeyError, match="'k'"):
        stage.main("count")
    assert len(tries) == 2


@pytest.fixture
def leases(place: Path, monkeypatch: Any) -> dict[str, Any]:
    """`repro` of DVC and the lease, made up: `code` is that of DVC, `mine` whether the lease is taken."""
    chosen: dict[str, Any] = {"code": 0, "mine": True, "did": []}

    @contextlib.contextmanager
    def held(key: str, name: str, say: Any, done: Any) -> Iterator[bool]:
        chosen["did"].append(("lease", key, name, done()))
        say("held")
        yield chosen["mine"]
        chosen["did"].append("given back")

    def repro(arguments: list[str]) -> str:
        chosen["did"].append(tuple(arguments))
        return str(chosen["code"])

    monkeypatch.setattr(lease, "held", held)
    monkeypatch.setattr(cli, "main", repro)
    return chosen


REPRO = ("repro", "--single-item", "--pull", "count")


def run(store: Store, leases: dict[str, Any]) -> tuple[int, list[Any]]:
    """The code, and what was done at the remote, with the lease and by DVC, in its order."""
    store.did = leases["did"]
    return stage._run(store, "count"), leases["did"]


def test_what_is_not_cached_or_known_needs_no_lease(leases: dict[str, Any]) -> None:
    leases["code"] = 7
    assert run(Store(key=""), leases) == (7, [("entries", ""), REPRO])
    leases["did"] = []
    assert run(Store(here=True), leases) == (7, [("entries", "k"), ("here", "k"), REPRO])
    leases["did"] = []
    assert run(Store(there=True), leases) == (7, [("entries", "k"), ("here", "k"), ("there", "k"), REPRO])


ASKED = [("entries", "k"), ("here", "k"), ("there", "k"), ("here", "k"), ("there", "k"), ("lease", "k", "count", False)]


def test_what_is_computed_under_the_lease_is_pushed_before_it_is_given_back(leases: dict[str, Any], capsys: Any):
    assert run(Store(), leases) == (0, [*ASKED, REPRO, ("push", "count"), "given back"])
    assert capsys.readouterr().out == "held\n"
    leases |= {"did": [], "code": 5}
    assert run(Store(), leases) == (5, [*ASKED, REPRO, "given back"]), "a failed stage has nothing to push"
    leases |= {"did": [], "mine": False}
    assert run(Store(), leases) == (5, [*ASKED, REPRO, "given back"]), "another machine has pushed it"


def test_a_push_that_fails_is_said_and_the_stage_is_done(leases: dict[str, Any], capsys: Any) -> None:
    store = Store()
    store.error = LookupError("full\ndisk")
    assert run(store, leases)[0] == 0
    assert capsys.readouterr().out == "held\ncount is not shared yet: LookupError: full disk\n"
