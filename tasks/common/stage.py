"""What every stage's `main` shares: expected errors end with one line, and the process dies with its parent."""

import ctypes
import functools
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

from tasks.common import events

P = ParamSpec("P")
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class StageError(RuntimeError):
    """A stage that cannot do its work. The message says what, where and what to do."""

    def __init__(self, message: str, reason: events.Reason | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        """For watchers; None to derive it from the cause."""


def stage(name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Run a `main` as the stage `name`: ValueErrors and StageErrors become `STAGE: message` and exit code 1.

    Every exception is reported as the event `failed`.
    """

    def decorate(main: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            die_with_parent()
            try:
                main(*args, **kwargs)
            except (ValueError, StageError) as error:
                reason = getattr(error, "reason", None) or events.reason_of(error)
                events.emit(events.Failed(reason=reason, message=str(error)))
                sys.exit(f"{name}: {error}")
            except Exception as error:
                message = f"{type(error).__name__}: {error}"
                events.emit(events.Failed(reason=events.reason_of(error), message=message))
                raise

        return run

    return decorate


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies, so that none is left over (Linux).

    Fit for `preexec_fn`: it loads nothing.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
