"""Log lines that would alarm without a reason: a run that was asked to stop has not crashed.

Prefect logs `Crash detected!` and `Crashed` as errors when SIGTERM ends a run, which is how a cancelled run and the
runs of a stopped worker end; it shows the reason as the state of the run.
"""

import logging
import re
import warnings

SIGNAL = "Execution was aborted by a termination signal"
STOPPED = "stopped by a signal: the run was cancelled, or its worker is stopping"
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
EXPECTED_EXCEPTIONS = ("FailedRun", "CrashedRun")
"""Exceptions that Prefect makes of a state that a flow returns."""
OBSERVERS = ("FlowRunCancellingObserver", "FlowRunSuspendingObserver", "runner.executor_context")
"""Prefect's own watches for cancelled runs. They end for good when the server goes away, with errors and tracebacks
that say that cancelling will fail (3.8.8); it does not, since our worker ends cancelled runs itself."""
ENDED_WATCH = re.compile(
    r"websocket (failed|closed)|Failed to connect to the events stream|polling task failed"
    r"|(Consumer|Polling) task exited|[Oo]bserver failed"
)
AWAY_MESSAGE = "the server was away; the worker looks for cancelled runs itself from now on"
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
        if "exited with unexpected exception" in message and kind and kind.__name__ in EXPECTED_EXCEPTIONS:
            return False  # The flow has returned this state, and its message says why.
        if SIGNAL not in message:
            return True
        if message.startswith("Finished in state"):
            return False  # It says the same again.
        record.msg, record.args, record.levelno, record.levelname = STOPPED, (), logging.INFO, "INFO"
        return True


class Observers(logging.Filter):
    """Makes one line of information of what Prefect's observers say when the server was away, and drops the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = False
        """Whether the one line was logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the first record about a broken connection, drop the others, keep what is about anything else."""
        if not ENDED_WATCH.search(record.getMessage()):
            return True
        if self.reported:
            return False
        self.reported = True
        record.msg, record.args, record.levelno, record.levelname = AWAY_MESSAGE, (), logging.INFO, "INFO"
        record.exc_info = record.exc_text = None
        return True


def _is_no_farewell(record: logging.LogRecord) -> bool:
    return "Still processing items" not in record.getMessage()


def _is_of_no_observer(record: logging.LogRecord) -> bool:
    return "Exception in callback FlowRunCancellingObserver" not in record.getMessage()


def install() -> None:
    """Apply it to the logs of flows and tasks of this process; a second call changes nothing."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(log_filter, Calm) for log_filter in logger.filters):
            logger.addFilter(Calm())
    observers = Observers()
    for name in OBSERVERS:
        logger = logging.getLogger(f"prefect.{name}")
        if not any(isinstance(log_filter, Observers) for log_filter in logger.filters):
            logger.addFilter(observers)
    # What else of them reaches a log: an error in their own handling of the error.
    logging.getLogger("asyncio").addFilter(_is_of_no_observer)
    warnings.filterwarnings("ignore", "coroutine 'Runner._handle_cancellation_observer_failure' was never awaited")
    for name in SERVICES:
        logging.getLogger(name).addFilter(_is_no_farewell)  # logging keeps one of each.
