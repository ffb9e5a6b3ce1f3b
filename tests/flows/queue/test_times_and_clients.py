"""Times of the queue, its client, and which waiting runs are admitted, in every case; the server is made up."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from flows.queue import admission, deployment, times
from flows.runs.places import FlowError
from tests.support.made_up_server import Server, run

NOW = datetime(2026, 11, 22, 17, 30, 20, 5).astimezone()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("17:31", NOW.replace(minute=31, second=0, microsecond=0)),
        ("17:30", NOW.replace(day=23, second=0, microsecond=0)),
        ("7:05", NOW.replace(day=23, hour=7, minute=5, second=0, microsecond=0)),
        ("2026-11-22T17:31", NOW.replace(minute=31, second=0, microsecond=0)),
        ("2026-12-01", NOW.replace(month=12, day=1, hour=0, minute=0, second=0, microsecond=0)),
    ],
)
def test_a_future_time(text: str, moment: datetime) -> None:
    assert times.at(text, NOW) == moment


def test_the_time_of_now_is_not_in_the_future() -> None:
    assert times.at("17:30", NOW.replace(second=0, microsecond=0)) == NOW.replace(day=23, second=0, microsecond=0)
    past = "--at '2026-11-22T17:30:20.000005' is in the past; give a future time"
    with pytest.raises(FlowError, match=f"^{re.escape(past)}$"):
        times.at("2026-11-22T17:30:20.000005", NOW)
    with pytest.raises(FlowError, match=r"^--at 'soon' is not a time; allowed are HH:MM and YYYY-MM-DDTHH:MM$"):
        times.at("soon", NOW)
    soon = times.at(f"{datetime.now().astimezone() + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}")
    assert timedelta(minutes=50) < soon - datetime.now(UTC) < timedelta(minutes=61)


def test_a_time_of_the_server_is_shown_in_this_machines_zone() -> None:
    assert times.local(None) == ""
    assert times.local(NOW.astimezone(UTC)) == "22 Nov 17:30:20"


def test_the_client_needs_no_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(deployment, "get_client", lambda **options: asked.append(options) or asked)
    made: Any = deployment.client()
    assert made is asked
    assert asked == [{"sync_client": True}]


def test_what_waits_is_admitted_and_what_fails_stays(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("gone", "first", "frozen", "by hand", "no git", "away", "full", "last", "refused here")
    rows = {name: run(StateType.SCHEDULED, name, deployment=None if name == "by hand" else "d") for name in names}
    rows["frozen"].job_variables = {"env": {admission.COMMIT: "c"}}
    errors: dict[str, Exception] = {
        "gone": ObjectNotFound(Exception("404")),
        "no git": FlowError("git commit:\nno identity"),
        "away": httpx.ConnectError("no answer"),
        "full": OSError("no space"),
    }
    seen = []

    def admit(connection: Any, row: Any) -> list[str]:
        seen.append(row.name)
        if row.name in errors:
            raise errors[row.name]
        return [f"{row.name}: frozen", f"{row.name}: a warning"]

    monkeypatch.setattr(admission, "_admit", admit)
    running = run(StateType.RUNNING, "running")
    server: Any = Server(*rows.values(), running)
    assert admission.admit(server) == [
        "first: frozen",
        "first: a warning",
        "no git: not admitted yet: git commit: no identity",
        "away: not admitted yet: no answer",
        "full: not admitted yet: no space",
        "last: frozen",
        "last: a warning",
        "refused here: frozen",
        "refused here: a warning",
    ]
    assert seen == [name for name in names if name not in ("frozen", "by hand")]


def test_the_commit_of_a_run_whatever_its_variables_are() -> None:
    key = admission.COMMIT
    for variables, commit in (
        (None, None),
        ([], None),
        ({}, None),
        ({"env": None}, None),
        ({"env": {}}, None),
        ({"env": {key: 5}}, None),
        ({"env": {key: "c"}}, "c"),
    ):
        assert admission.commit_of(SimpleNamespace(job_variables=variables)) == commit
    sha = "0123456789abcdef" * 4
    assert admission.foreign_variables({}, ()) is None
    for length, known in ((40, True), (64, True), (39, False), (41, False), (63, False), (65, False)):
        given = (sha + "0")[:length]
        assert (admission.foreign_variables({"env": {key: given}}, {given}) is None) == known
    why = admission.foreign_variables({"env": {key: "x" * 80}}, ())
    assert why == f"ARC_COMMIT is '{'x' * 59}, which is no commit that was frozen in this checkout"
    command = "it sets job variables, such as a command or its environment, which only the worker does"
    for odd in ([1], {"env": None}, {"env": {}, "command": "x"}, {"env": {key: sha[:40], "LD_PRELOAD": "x"}}, {"x": 1}):
        assert admission.foreign_variables(odd, {sha[:40]}) == command
