"""What a user sees of an error: one line that is safe to print, with the folder that is full."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.stage import StageError, printable, stage

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
