"""A cancelled run logs no crash; a real crash is logged as it was."""

import logging

import pytest

from flows.runs import calm_log


@pytest.mark.parametrize("name", calm_log.LOGGERS)
def test_a_termination_signal_is_no_crash_and_all_else_stays(name: str) -> None:
    logger, seen = logging.getLogger(name), []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.levelname, record.getMessage()))

    handler = Kept()
    logger.addHandler(handler)
    try:
        calm_log.install()
        calm_log.install()
        assert sum(isinstance(known, calm_log.Calm) for known in logger.filters) == 1
        logger.error("Crash detected! Execution was aborted by a termination signal.")
        logger.error("Finished in state Crashed('Execution was aborted by a termination signal.')")
        logger.error("Crash detected! %s", "out of memory")
        logger.error("Finished in state Failed('train: the loss is not finite')")
    finally:
        logger.removeHandler(handler)
    assert seen == [
        ("INFO", calm_log.STOPPED),
        ("ERROR", "Crash detected! out of memory"),
        ("ERROR", "Finished in state Failed('train: the loss is not finite')"),
    ]
