"""Atomic writing: a reader, also one after a power cut, sees the old file or the whole new one, never a part of it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`: write the file there, and it replaces `path` when the block ends.

    If the block raises, `path` keeps its old content and the temporary file is removed. Raises OSError where the file
    cannot be written. The folder must exist.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write text atomically in UTF-8, with line ends as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, one space of indentation, a line end. Raises ValueError at a NaN."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def make_public(path: Path) -> None:
    """Give a file the mode of any other that this process makes; safetensors leaves its files to this user alone."""
    sample = path.with_name(path.name + ".mode")
    sample.touch()
    shutil.copymode(sample, path)
    sample.unlink()


def _sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
