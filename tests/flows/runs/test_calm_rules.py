"""Each filter of the log on records that are made up, and that installing them again changes nothing."""

import logging
import warnings
from typing import Any

import pytest
from prefect.exceptions import FailedRun

from flows.runs import calm_log


def record(text: str, *given: Any, error: BaseException | None = None, level: int = logging.ERROR) -> logging.LogRecord:
    info: Any = (type(error), error, None) if error else (None, None, None)
    return logging.LogRecord("x", level, "x.py", 1, text, given, info)


def shown(row: logging.LogRecord) -> tuple[str, int, str, Any]:
    return row.getMessage(), row.levelno, row.levelname, row.args


def test_a_signal_becomes_information_and_a_returned_failure_has_no_traceback() -> None:
    calm = calm_log.Calm()
    stopped = record("Crash: %s", "Execution was aborted by a termination signal by hand")
    assert calm.filter(stopped)
    why = "stopped by a signal: the run was cancelled, or its worker is stopping"
    assert shown(stopped) == (why, 20, "INFO", ())
    assert not calm.filter(record("Finished in state X('Execution was aborted by a termination signal')"))
    other = record("Finished in state %s", "Failed")
    assert calm.filter(other)
    assert shown(other) == ("Finished in state Failed", 40, "ERROR", ("Failed",))
    assert other.exc_info is None, "else `NoneType: None` follows"
    unexpected = "Task execution exited with unexpected exception"
    assert not calm.filter(record(unexpected, error=FailedRun("x")))
    for kept in (record(unexpected), record(unexpected, error=KeyError("x")), record("else", error=FailedRun("x"))):
        before = kept.exc_info and kept.exc_info[0]
        assert calm.filter(kept)
        assert (kept.exc_info and kept.exc_info[0]) == before
        assert kept.levelno == logging.ERROR


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("The websocket failed", True),
        ("The websocket closed", True),
        ("The websocket opened", False),
        ("Failed to connect to the events stream", True),
        ("Cancellation polling task failed", True),
        ("Consumer task exited", True),
        ("Polling task exited", True),
        ("Another task exited", False),
        ("Observer failed", True),
        ("the observer failed", True),
        ("the server failed", False),
    ],
)
def test_that_a_watch_ended_is_said_once(text: str, ended: bool) -> None:
    watch = calm_log.Observers()
    first, second = record(text, error=EOFError()), record(text)
    first.exc_text = "a traceback"
    assert [watch.filter(first), watch.filter(second)] == ([True, False] if ended else [True, True])
    away = ("the server was away; the worker looks for cancelled runs itself from now on", 20, "INFO", ())
    assert (shown(first) == away) == ended
    assert (first.exc_info is None, first.exc_text is None) == (ended, ended)
    assert watch.reported == ended


def test_installed_twice_each_logger_has_one_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*calm_log.LOGGERS, *(f"prefect.{name}" for name in calm_log.OBSERVERS), "asyncio", *calm_log.SERVICES]
    for name in names:
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        calm_log.install()
        calm_log.install()
        warnings.warn("coroutine 'Runner._handle_cancellation_observer_failure' was never awaited", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(one.message) for one in seen] == ["another"]
    assert [len(logging.getLogger(name).filters) for name in names] == [1] * len(names)
    [watch] = {id(logging.getLogger(f"prefect.{name}").filters[0]) for name in calm_log.OBSERVERS}
    assert watch, "one for all: what the first has said, the others need not"
    kinds = [type(logging.getLogger(name).filters[0]).__name__ for name in names]
    assert kinds == ["Calm"] * 3 + ["Observers"] * 3 + ["function"] * 3
    for name, text, kept in (
        ("asyncio", "Exception in callback FlowRunCancellingObserver.x()", False),
        ("asyncio", "Exception in callback mine()", True),
        ("EventsWorker", "Still processing items: 3", False),
        ("APILogWorker", "lost 3 items", True),
    ):
        assert bool(logging.getLogger(name).filter(record(text))) == kept
