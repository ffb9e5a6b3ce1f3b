"""Why a stage failed, as one line for people."""

import errno
import re
import shutil
import signal
from collections.abc import Sequence

from flows.runs import places
from tasks.common.events import Failed

KILLED, TERMINATED = ((-number, 128 + number) for number in (signal.SIGKILL, signal.SIGTERM))
"""Exit codes of a process that a signal ended, as Python and as a shell give them."""
FULL_BYTES = 2**20
"""Free bytes below which a disk counts as full."""


def reason(failure: Failed | None, code: int, lines: Sequence[str]) -> str:
    """The reason that the stage reported; else, from its exit code `code` or the last lines of its log."""
    if failure:
        return failure.message if failure.reason == "other error" else f"{failure.reason}: {failure.message}"
    if killed(code):
        return f"killed: exit code {code}, by the system when memory runs out, or by hand"
    if code in TERMINATED:
        return f"stopped: exit code {code}"
    if (
        shutil.disk_usage(places.scratch()).free < FULL_BYTES
    ):  # Then the event of the stage could not be written either.
        return f"the disk is full: {places.scratch()}"
    # It failed outside of a stage's `main`: at an import, or in DVC itself.
    log = [line.strip() for line in lines if line.strip() and not line.startswith("ERROR: failed to reproduce")]
    errors = [line for line in log if re.match(r"[\w.]*(Error|Exception)\b|ERROR: ", line)]
    return (errors or log or [f"exit code {code}, without a message"])[-1]


def of_file_error(error: OSError) -> str:
    """The reason of a file error in the flow itself."""
    return f"the disk is full: {error}" if error.errno == errno.ENOSPC else str(error)


def killed(code: int) -> bool:
    """Whether SIGKILL ended the stage, so that starting it again may help."""
    return code in KILLED
