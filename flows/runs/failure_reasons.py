"""Why a stage failed, in the words of the morning after."""

import re
from collections.abc import Sequence

REASONS = (
    ("out of GPU memory", r"CUDA out of memory|OutOfMemoryError"),
    ("out of memory", r"MemoryError|Cannot allocate memory|DefaultCPUAllocator: can't allocate"),
    ("the loss is not finite", r"the training diverged|loss (nan|inf)"),
    ("the disk is full", r"No space left on device|ENOSPC|database or disk is full|I/O error: No space"),
    ("killed", r"exited with -9|exited with 137|\bKilled\b"),
    ("stopped", r"the state is saved; start the stage again|exited with (-15|143)"),
)


def reason(lines: Sequence[str]) -> str:
    """The reason in a stage's last lines, with the line that tells it."""
    for name, pattern in REASONS:
        for line in reversed(lines):
            if re.search(pattern, line):
                return f"{name}: {line.strip()}"
    told = [line.strip() for line in lines if line.strip() and not line.startswith("\tfile:")]
    # A stage's own word (`train: ...`) tells most, then the end of a traceback, then what DVC says of it.
    for pattern in (r"[a-z]+: ", r"[\w.]*(Error|Exception)\b", r"(?!ERROR: failed to reproduce .*: failed to run)"):
        if found := [line for line in told if re.match(pattern, line)]:
            return found[0] if pattern == r"[a-z]+: " else found[-1]
    return "no word of why"


def killed(lines: Sequence[str]) -> bool:
    """Whether something outside ended the stage by force, so that starting it again may help."""
    return any(re.search(REASONS[4][1], line) for line in lines)
