"""Log lines that would alarm without a reason: a run that was asked to stop has not crashed.

Prefect logs `Crash detected!` and `Crashed` as errors when SIGTERM ends a run, which is how a cancelled run and the
runs of a stopped worker end; it shows the reason as the state of the run.
"""

import logging

SIGNAL = "Execution was aborted by a termination signal"
STOPPED = "stopped by a signal: the run was cancelled, or its worker is stopping"
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
EXPECTED = ("FailedRun", "CrashedRun")
"""Exceptions that Prefect makes of a state that a flow returns."""
SERVICES = ("EventsWorker", "APILogWorker")
"""Prefect's threads that send events and logs; they warn while they send the last ones."""


class Calm(logging.Filter):
    """Rewrites these errors as information; everything else stays as it is."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the records about a termination signal, drop what only repeats a state, keep all others."""
        message = record.getMessage()
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None:
            record.exc_info = None  # Else `NoneType: None` follows a failure that was returned.
        if "exited with unexpected exception" in message and kind and kind.__name__ in EXPECTED:
            return False  # The flow has returned this state, and its message says why.
        if SIGNAL not in message:
            return True
        if message.startswith("Finished in state"):
            return False  # It says the same again.
        record.msg, record.args, record.levelno, record.levelname = STOPPED, (), logging.INFO, "INFO"
        return True


def _is_no_farewell(record: logging.LogRecord) -> bool:
    return "Still processing items" not in record.getMessage()


def install() -> None:
    """Apply it to the logs of flows and tasks of this process; a second call changes nothing."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, Calm) for known in logger.filters):
            logger.addFilter(Calm())
    for name in SERVICES:
        logging.getLogger(name).addFilter(_is_no_farewell)  # logging keeps one of each.
