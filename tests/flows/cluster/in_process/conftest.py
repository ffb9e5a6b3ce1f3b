"""A DVC project in the test's own process, and the clone that shares its remote."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.stage.cache import StageCache
from dvc.ui import ui
from dvc_objects.fs.local import LocalFileSystem

from flows.cluster.remote_store import RemoteStore

PROJECT = """
stages:
  count:
    cmd: cat given.txt > counted.txt && echo computed >> ../computed
    deps: [given.txt]
    outs: [counted.txt]
  other:
    cmd: printf other > other.txt
    deps: [counted.txt]
    outs: [other.txt]
  always:
    cmd: echo always > always.txt
    outs: [always.txt]
"""
CONFIG = """
[core]
    remote = shared
    analytics = false
    site_cache_dir = {0}/site
['remote "shared"']
    url = {0}/objects
"""


@pytest.fixture
def clone(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Goes to a clone of a project of three stages; the clones share the folder `objects` as DVC's remote."""
    os.environ["DVC_NO_ANALYTICS"] = "1"
    logger = logging.getLogger("dvc")
    # What DVC and our stage change for the whole process.
    monkeypatch.setattr(StageCache, "pull", StageCache.pull)
    monkeypatch.setattr(ui, "_enabled", False)
    monkeypatch.setattr(logger, "handlers", [*logger.handlers])
    monkeypatch.setattr(logger, "level", logger.level)
    (place / "objects").mkdir()

    def made(name: str) -> Path:
        path = place / name
        if not path.exists():
            (path / ".dvc").mkdir(parents=True)
            subprocess.run(["git", "init", "-q", str(path)], check=True)
            (path / ".dvc" / "config").write_text(CONFIG.format(place))
            (path / "dvc.yaml").write_text(PROJECT)
            (path / "given.txt").write_text("1")
        monkeypatch.chdir(path)
        return path

    return made


@pytest.fixture
def program(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a script of the shell in the place of `dvc` or `python`; it notes its folder and arguments."""
    (place / "bin").mkdir()
    os.environ["PATH"] = os.pathsep.join([str(place / "bin"), os.environ["PATH"]])
    monkeypatch.setattr(sys, "executable", str(place / "bin" / "python"))

    def write(name: str, text: str) -> None:
        file = place / "bin" / name
        file.write_text(f'#!/bin/sh\necho "$PWD $*" >> {place}/asked\n{text}\n')
        file.chmod(0o755)

    return write


@pytest.fixture
def asked(place: Path) -> Callable[[], list[str]]:
    """Folder and arguments of each start of such a script since the last call of this."""

    def lines() -> list[str]:
        file = place / "asked"
        found = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    return lines


@pytest.fixture
def folder_store(place: Path) -> RemoteStore:
    """A remote in the folder `remote`, without a project of DVC."""
    made = object.__new__(RemoteStore)
    made.fs, made.path, made.local = LocalFileSystem(), str(place / "remote"), True
    (place / "remote").mkdir()
    return made
