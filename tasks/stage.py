"""What every stage's `main` shares: expected errors end with one line, and the process dies with its parent."""

import ctypes
import functools
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class StageError(RuntimeError):
    """A stage that cannot do its work. The message says what, where and what to do."""


def stage(name: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Run a `main` as the stage `name`: ValueErrors and StageErrors become `STAGE: message` and exit code 1."""

    def decorate(main: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(main)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            _die_with_parent()
            try:
                main(*args, **kwargs)
            except (ValueError, StageError) as error:
                sys.exit(f"{name}: {error}")

        return run

    return decorate


def _die_with_parent() -> None:
    """Have the kernel end this process when DVC dies, so that no second training starts beside an orphan (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
