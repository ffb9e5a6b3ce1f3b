"""What the calm start of a server changes of it: one statement, one log record, and its arguments."""

import logging
import runpy
import sys
from typing import Any

import pytest

from tasks.servers import calm


@pytest.mark.parametrize(
    ("message", "error", "alarm"),
    [
        ("a heartbeat persistence failed: %s", "x database is locked y", False),
        ("a heartbeat persistence failed: %s", "disk full", True),
        ("another failed: %s", "database is locked", True),
        ("another: %s", "disk full", True),
        ("heartbeat persistence failed: %s", None, True),
    ],
)
def test_only_a_heartbeat_that_met_a_locked_database_is_left_out(message: str, error: str | None, alarm: bool) -> None:
    info: Any = (ValueError, ValueError(error), None) if error else None
    record = logging.LogRecord("x", logging.ERROR, "file", 1, message, ("database is locked",), info)
    assert calm.is_alarm(record) == alarm


def test_a_transaction_begins_with_the_lock_and_nothing_else_changes() -> None:
    for statement, changed in (("BEGIN DEFERRED", "BEGIN IMMEDIATE"), ("BEGIN", "BEGIN"), ("SELECT 1", "SELECT 1")):
        assert calm.lock_at_once(None, None, statement, [1, 2], None, False) == (changed, [1, 2])


def test_the_module_runs_as_the_program_with_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["calm.py", "prefect", "server", "start"])
    monkeypatch.setattr(calm, "guard_pages", lambda: order.append("pages"))
    monkeypatch.setattr(calm.event, "listen", lambda *given, **named: order.append((given[1:], named)))  # type: ignore[attr-defined]
    monkeypatch.setattr(runpy, "run_module", lambda *given, **named: order.append((given, named, list(sys.argv))))
    logger = logging.getLogger(calm.LOGGER)
    before = list(logger.filters)
    try:
        calm.main()
        assert [added for added in logger.filters if added not in before] == [calm.is_alarm]
    finally:
        logger.filters[:] = before
    assert order == [
        "pages",
        (("before_cursor_execute", calm.lock_at_once), {"retval": True}),
        (("prefect",), {"run_name": "__main__", "alter_sys": True}, ["prefect", "server", "start"]),
    ]
