"""What every stage's `main` shares: expected errors end with one line, and the process dies with its parent."""

import ctypes
import functools
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class StageError(RuntimeError):
    """A stage that cannot do its work. The message says what, where and what to do."""


def stage(name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Run a `main` as the stage `name`: ValueErrors and StageErrors become `STAGE: message` and exit code 1."""

    def decorate(main: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            die_with_parent()
            try:
                main(*args, **kwargs)
            except (ValueError, StageError) as error:
                sys.exit(f"{name}: {error}")

        return run

    return decorate


def die_with_parent() -> None:
    """Have the kernel end this process when its parent dies, so that none is left over (Linux).

    Fit for `preexec_fn`: it loads nothing.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
