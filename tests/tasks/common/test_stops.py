"""SIGTERM in a stage: one line, once; where the stage asks, it is only noted."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.common import stops
from tasks.common.stage import stage


@stage("work")
def signalled() -> None:
    """A stage that is told to stop."""
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in stops.SIGNALS}
    yield
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):  # It would send its signal to whatever comes next.
            thread.join()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stage_ends_with_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^work: stopped by SIGTERM; start it again$"):
        signalled()


def test_a_second_signal_interrupts_no_save() -> None:
    said = []

    @stage("work")
    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            said.append("saved")
            # C code that goes on with the first one's exception pending would have a handler fail with a SystemError.
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN

    with pytest.raises(SystemExit, match="work: stopped"):
        main()
    os.kill(os.getpid(), signal.SIGTERM)  # The process still prints why it ends.
    assert said == ["saved"]


def test_a_module_that_is_being_imported_swallows_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
except:
    pass
imported = True
"""
    (tmp_path / "swallowing.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    found = []

    @stage("work")
    def main() -> None:
        import swallowing  # type: ignore[import-not-found]

        found.append(swallowing.imported)
        time.sleep(30)

    began = time.monotonic()
    with pytest.raises(SystemExit, match="work: stopped"):
        main()
    assert time.monotonic() - began < 20
    assert found == [True]


def test_a_stage_that_looks_by_itself_is_not_interrupted() -> None:
    @stage("work")
    def main() -> None:
        assert not stops.noted()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stops.noted()

    main()


def test_the_handlers_of_whoever_calls_a_stage_come_back() -> None:
    handlers = [signal.getsignal(number) for number in stops.SIGNALS]

    @stage("outer")
    def outer() -> None:
        inner()
        os.kill(os.getpid(), signal.SIGTERM)

    @stage("inner")
    def inner() -> None:
        stops.noted()

    inner()
    assert [signal.getsignal(number) for number in stops.SIGNALS] == handlers
    with pytest.raises(SystemExit, match="outer: stopped"):
        outer()


def test_another_thread_gets_no_signals() -> None:
    found = []

    @stage("work")
    def main() -> None:
        found.append(stops.noted())

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_forked_process_dies_of_it(tmp_path: Path) -> None:
    script = """
import os, signal, time
from tasks.common.stage import stage
@stage("work")
def main():
    up, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b"1")
        time.sleep(60)
    os.read(up, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitpid(child, 0)[1])
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == (f"{signal.SIGTERM.value}\n", "")
