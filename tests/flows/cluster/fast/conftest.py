"""A DVC project in the test's own process, and the clone that shares its remote."""

import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.stage.cache import StageCache
from dvc.ui import ui

PROJECT = """
stages:
  count:
    cmd: cat given.txt > counted.txt && echo computed >> ../computed
    deps: [given.txt]
    outs: [counted.txt]
  other:
    cmd: cat counted.txt > other.txt
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
