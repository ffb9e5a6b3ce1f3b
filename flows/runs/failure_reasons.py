"""Why a stage failed, as one line for people."""

import errno
import re
import shutil
import signal
from collections.abc import Sequence

from flows.runs import places
from flows.runs.places import FlowError, one_line
from tasks.common import stage
from tasks.common.documents import DocumentError
from tasks.common.events import Failed, Reason
from tasks.common.presets import ConfigurationError

KILLED, TERMINATED = ((-number, 128 + number) for number in (signal.SIGKILL, signal.SIGTERM))
"""Exit codes of a process that a signal ended, as Python and as a shell give them."""
FULL: Reason = "the disk is full"
"""Begins the reason of each stage that ended because of it; such a run is resumed."""


def reason(failure: Failed | None, code: int, lines: Sequence[str]) -> str:
    """The reason that the stage reported; else, from its exit code `code` or the last lines of its log."""
    if failure:
        plain = failure.reason in ("other error", "stopped")  # Its message says it.
        return failure.message if plain else f"{failure.reason}: {failure.message}"
    if killed(code):
        return f"killed by SIGKILL (exit code {code}): by the system when memory runs out, or by hand"
    if code in TERMINATED:
        return f"stopped by SIGTERM (exit code {code})"
    # Then the event of the stage could not be written either.
    if shutil.disk_usage(places.scratch()).free < stage.FULL_BYTES:
        return f"{FULL}: {places.scratch()}"
    # It failed outside of a stage's `main`: at an import, or in DVC itself.
    log = [line.strip() for line in lines if line.strip() and not line.startswith("ERROR: failed to reproduce")]
    errors = [line for line in log if re.match(r"[\w.]*(Error|Exception)\b|ERROR: ", line)]
    return (errors or log or [f"exit code {code}, without a message"])[-1]


def of_file_error(error: OSError) -> str:
    """The reason of a file error in the flow itself."""
    message = stage.of_file_error(error)
    return f"{FULL}: {stage.with_full_disks(message, FULL)}" if error.errno == errno.ENOSPC else message


def expected(error: Exception) -> str | None:
    """The message of an error that a user can correct, or that the server's absence explains; None for any other."""
    if isinstance(error, FlowError | ConfigurationError | DocumentError | stage.StageError):
        return stage.printable(str(error))
    if type(error).__module__.split(".")[0] in ("httpx", "httpcore", "prefect"):
        return f"the server's answer: {type(error).__name__}: {one_line(error)}; `arc doctor` checks the server"
    return stage.printable(of_file_error(error)) if isinstance(error, OSError) else None


def killed(code: int) -> bool:
    """Whether SIGKILL ended the stage, so that starting it again may help."""
    return code in KILLED
