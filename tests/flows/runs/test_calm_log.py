"""A cancelled run logs no crash; a real crash is logged as it was."""

import logging

import pytest
from prefect.exceptions import CrashedRun

from flows.runs import calm_log, stage_process


@pytest.mark.parametrize("name", calm_log.LOGGERS)
def test_a_termination_signal_is_no_crash_and_all_else_stays(monkeypatch, name: str) -> None:
    logger, seen = logging.getLogger(name), []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.levelname, record.getMessage()))

    monkeypatch.setattr(logger, "handlers", [Kept()])  # Not the one that sends to the server.
    calm_log.install()
    calm_log.install()
    assert sum(isinstance(known, calm_log.Calm) for known in logger.filters) == 1
    logger.error("Crash detected! Execution was aborted by a termination signal.")
    logger.error("Finished in state Crashed('Execution was aborted by a termination signal.')")
    logger.error("Crash detected! %s", "out of memory")
    for error in (CrashedRun("the disk is full"), ValueError("a bug")):
        try:
            raise error
        except Exception:
            logger.error("Engine execution exited with unexpected exception", exc_info=True)
    logger.error("Finished in state Failed('train: the loss is not finite')")
    assert seen == [
        ("INFO", calm_log.STOPPED),
        ("ERROR", "Crash detected! out of memory"),
        ("ERROR", "Engine execution exited with unexpected exception"),
        ("ERROR", "Finished in state Failed('train: the loss is not finite')"),
    ]


@pytest.mark.parametrize("name", calm_log.SERVICES)
def test_the_last_events_are_sent_without_a_warning_and_lost_ones_are_told(name: str, caplog) -> None:
    calm_log.install()
    logging.getLogger(name).warning("Still processing items: 3 items remaining...")
    logging.getLogger(name).warning("Service %r queue is full (%d items), dropping item", name, 9)
    assert [record.getMessage() for record in caplog.records] == [
        f"Service {name!r} queue is full (9 items), dropping item"
    ]


def test_an_absent_server_is_one_line_of_information_and_all_else_stays(monkeypatch, caplog) -> None:
    """Messages of prefect/_internal/observers.py and prefect/runner."""
    for name in calm_log.OBSERVERS:
        monkeypatch.setattr(logging.getLogger(f"prefect.{name}"), "filters", [])
    # Libraries' set-ups of logging, such as alembic's in another test, switch off loggers that exist already.
    for key, value in {"disabled": False, "propagate": True, "level": logging.NOTSET, "_cache": {}}.items():
        monkeypatch.setattr(logging.getLogger("asyncio"), key, value)
    calm_log.install()
    calm_log.install()
    watch, runner = (logging.getLogger(f"prefect.{calm_log.OBSERVERS[i]}") for i in (0, 2))
    try:
        raise EOFError("connection closed")
    except EOFError as error:
        gone = error
    for text in (
        "The FlowRunCancellingObserver websocket failed with an exception. Switching to polling mode.",
        "Failed to connect to the events stream. Falling back to polling for cancellation events. Reason: x",
        "Cancellation polling task failed. Execution will continue, but flow run cancellation will fail.",
        "Consumer task exited with exception",
        "Polling task exited with exception",
    ):
        watch.error(text, exc_info=gone)
    runner.warning("Cancellation observer failed. Flow run cancellation disabled. Set PREFECT_RUNNER_CRASH_ON_...")
    logging.getLogger("asyncio").error("Exception in callback FlowRunCancellingObserver._handle_polling_task_done(<>)")
    logging.getLogger("asyncio").error("Exception in callback another()")
    watch.warning("Received event with invalid flow run ID: %s", "x")
    assert [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("INFO", calm_log.AWAY_MESSAGE, None),
        ("ERROR", "Exception in callback another()", None),
        ("WARNING", "Received event with invalid flow run ID: x", None),
    ]


def test_a_lock_that_dvc_released_is_no_line_of_the_log() -> None:
    line = "WARNING: Process 'dvc repro --single-item train' with (Pid 12), in RWLock-file '.dvc/tmp/rwlock' had been"
    assert stage_process.NOISE.match(f"{line} killed. Auto removed it from the lock file.")
    assert not stage_process.NOISE.match("WARNING: the disk is nearly full")
