"""What a user sees of an error: one line that is safe to print, with the folder that is full."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.stage import StageError, printable, stage
from tests.conftest import ROOT

Usage = namedtuple("Usage", "total used free")


def ending(error: BaseException) -> str:
    @stage("work")
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        main()
    return str(caught.value.code)


@given(st.text())
def test_printable_text_is_kept_and_the_rest_is_spelled_out(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    shown.encode()
    assert all(c in shown for c in text if c.isprintable())


def test_an_escape_sequence_or_a_surrogate_never_reaches_the_terminal() -> None:
    assert ending(StageError("task \x1b[2J\udc80 is unknown")) == "work: task \\x1b[2J\\udc80 is unknown"


def test_a_file_error_is_one_line_with_its_file() -> None:
    assert ending(PermissionError(errno.EACCES, "Permission denied", "a/b")) == "work: Permission denied: a/b"


def test_another_error_keeps_its_traceback() -> None:
    @stage("work")
    def main() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        main()


WAITS = "print('up', flush=True) or time.sleep(60)"
PROGRAMS = {
    "train": f"stage('train')(lambda: {WAITS})()",
    "ui": f"from tasks.servers import ui; ui.store.configured_store = lambda: {WAITS}; ui.main(5000, 4200)",
    "run_stages": (
        f"from tasks.studies import run_stages; run_stages.Runner = lambda *_, **__: {WAITS}; "
        "run_stages.main('study.yaml', gpus='')"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "outlives"), [("train", False), ("ui", True), ("run_stages", True)])
def test_what_a_shell_starts_with_nohup_outlives_it_and_the_stages_of_dvc_do_not(
    tmp_path: Path, name: str, outlives: bool
) -> None:
    program = f"import os, time; from tasks.common.stage import stage; print(os.getpid(), flush=True); {PROGRAMS[name]}"
    shell = subprocess.Popen(
        ["sh", "-c", 'nohup "$@" & wait', "sh", sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ARC_EVENTS": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout
    child = psutil.Process(int(shell.stdout.readline()))
    try:
        assert shell.stdout.readline() == "up\n"
        shell.kill()
        shell.wait()
        if outlives:
            with pytest.raises(psutil.TimeoutExpired):
                child.wait(timeout=2)
        else:
            child.wait(timeout=30)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
        shell.stdout.close()


class DatabaseError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        DatabaseError("(sqlite3.OperationalError) database or disk is full\n[SQL: ...]"),
        StageError("the store: database or disk is full"),
    ],
)
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.chdir(tmp_path)
    real = shutil.disk_usage

    def usage(path: Any) -> Any:
        return Usage(1, 1, 0) if Path(path) == tmp_path else real(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    message = ending(error)
    assert message.endswith(f"(full: {tmp_path})")
    assert "\n" not in message
