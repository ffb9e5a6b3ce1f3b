"""What every stage's `main` shares: expected errors and SIGTERM end with one line; it dies with its parent."""

import ctypes
import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec

from tasks.common import events, inputs, paths, stops

P = ParamSpec("P")
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
FULL_BYTES = 2**20
"""Free bytes below which a disk counts as full."""
EXIT_STATUS: dict[events.Reason, int] = {
    "the loss is not finite": 3,
    "the loss diverged": 4,
    "out of GPU memory": 5,
    "out of memory": 5,
    "no progress": 6,
}
"""Exit status of a stage by the reason that it gives; 1 for any other error (docs/operation.md)."""


class StageError(RuntimeError):
    """A stage that cannot do its work. The message says what, where and what to do."""

    def __init__(self, message: str, reason: events.Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        """For watchers; None to derive it from the cause."""


def stage(name: str, tied: bool = True) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Run a `main` as the stage `name`: errors that a user can correct become `STAGE: message` and exit code 1.

    These are ValueErrors, StageErrors, whatever a file or a full disk refuses, and SIGTERM. Every exception is reported
    as the event `failed`. Unless `tied`, it outlives its parent, as what is started with `nohup` must.
    """

    def decorate(main: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            if tied:
                die_with_parent()
            try:
                with stops.interrupting():
                    inputs.check(name, args or tuple(kwargs.values()))
                    main(*args, **kwargs)
            except stops.Interrupted:
                message = "stopped by SIGTERM; start it again"
                events.emit(events.Failed(reason="stopped", message=message))
                end(f"{name}: {message}", "stopped")
            except (ValueError, StageError) as error:
                reason = getattr(error, "reason", None) or events.reason_of(error)
                message = printable(with_full_disks(str(error), reason))
                events.emit(events.Failed(reason=reason, message=message))
                end(f"{name}: {message}", reason)
            except Exception as error:
                reason = events.reason_of(error)
                message_suffices = isinstance(error, OSError) or reason == "the disk is full"
                message = of_file_error(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                message = printable(with_full_disks(message.splitlines()[0] if message_suffices else message, reason))
                events.emit(events.Failed(reason=reason, message=message))
                if message_suffices:
                    sys.exit(f"{name}: {message}")
                raise

        return run

    return decorate


def end(message: str, reason: events.Reason) -> NoReturn:
    """Exit with the message and the status of the reason."""
    ending = SystemExit(message)
    if reason in EXIT_STATUS:
        print(message, file=sys.stderr, flush=True)
        ending.code = EXIT_STATUS[reason]
    raise ending


def printable(text: str) -> str:
    """A text without anything that acts on a terminal or that no terminal can show, such as lone surrogates."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def of_file_error(error: OSError) -> str:
    """What a file refused, and which file, if the error names it."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{error.strerror or error}{': ' if named else ''}{', '.join(named)}"


def with_full_disks(message: str, reason: events.Reason) -> str:
    """The message with the folders on a full disk, if that is the reason: few errors name the file."""
    full = full_folders() if reason == "the disk is full" else []
    return f"{message} (full: {', '.join(map(str, full))})" if full else message


def full_folders() -> list[Path]:
    """The folders of this process that are on a full disk: the current one, scratch, temporary files."""
    folders = dict.fromkeys(path.resolve() for path in (Path.cwd(), paths.SCRATCH, _temporary()) if path.exists())
    return [path for path in folders if shutil.disk_usage(path).free < FULL_BYTES]


def _temporary() -> Path:
    """The folder of temporary files, which `tempfile` finds only where there is space."""
    return Path(os.environ.get("TMPDIR") or "/tmp")


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies, so that none is left over (Linux).

    Fit for `preexec_fn`: it loads nothing.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
