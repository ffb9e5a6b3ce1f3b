"""SIGTERM in a stage: it ends at once with one line, or where it says so, such as after an update that it saves first.

A second signal changes nothing, so that none interrupts a save. `timeout` sends one to the whole process group, and
whoever watches the stage sends another.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AFTER_IMPORTS = 0.05
"""Seconds after which a signal that came while a module was imported is sent again."""


class Interrupted(BaseException):
    """The stage was asked to end. Not an Exception: no handler of errors is to take it for one."""


class _Stops:
    def __init__(self) -> None:
        self.process = os.getpid()
        self.requested = self.noted = False
        self.imports = _imports(sys._getframe())

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # A fork, whose parent expects that a signal ends it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not self.noted and _imports(frame) > self.imports:
            # A module that is being imported may swallow the exception, or fail in its own way.
            threading.Timer(AFTER_IMPORTS, os.kill, (self.process, number)).start()
            return
        first, self.requested = not self.requested, True
        if first and not self.noted:
            # C code may go on for a while with the exception pending, when no handler of a second signal may be called.
            signal.signal(number, signal.SIG_IGN)
            raise Interrupted


def _imports(frame: FrameType | None) -> int:
    """How many imports the frame is in."""
    count = 0
    while frame:
        count += frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count


_current: _Stops | None = None


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Raise Interrupted in this block at the first SIGTERM, until `noted` is called. For the main thread; else nothing.

    If a signal came, later ones are still ignored after the block: the process is about to end, and says why.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops, outer, before = _Stops(), _current, {number: signal.getsignal(number) for number in SIGNALS}
    _current = stops
    signal.signal(signal.SIGTERM, stops.handle)
    try:
        yield
    finally:
        stops.noted = True
        _current = outer
        if not stops.requested:
            for number, handler in before.items():
                signal.signal(number, handler)


def noted() -> bool:
    """Whether the stage was asked to end. From the first call on, SIGTERM and Ctrl-C are only noted."""
    stops = _current
    if stops is None:
        return False
    if not stops.noted:
        stops.noted = True
        signal.signal(signal.SIGINT, stops.handle)
    return stops.requested
