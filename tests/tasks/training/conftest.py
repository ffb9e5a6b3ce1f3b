"""Workspaces of trainings that need no network; their events are a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks import augment, prepare, train
from tasks.common import events, paths
from tests.conftest import experiment, puzzles
from tests.support.whole_training import Whole


@pytest.fixture
def log(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(events.VARIABLE, "events.jsonl")
    monkeypatch.delenv("ARC_SAVE_SECONDS", raising=False)
    return workspace / "events.jsonl"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder data with everything that the stage train reads."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        paths.RAW.mkdir(parents=True)
        paths.EXPERIMENT.write_text(yaml.safe_dump(experiment().model_dump(mode="json")))
        for name, contents in puzzles().items():
            (paths.RAW / name).write_text(json.dumps(contents))
        prepare.main()
        augment.main()
    return folder / "data"


@pytest.fixture
def write(data: Path) -> Callable[..., None]:
    """Writes the data, and the parameters of an experiment of it."""

    def write(**changes: Any) -> None:
        shutil.copytree(data, "data", dirs_exist_ok=True)
        paths.EXPERIMENT.write_text(yaml.safe_dump(experiment(**changes).model_dump(mode="json")))

    return write


@pytest.fixture
def begin(write: Callable[..., None], log: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Starts the stage with a made-up training; returns the events."""
    Whole.made, Whole.lacks, Whole.moved, Whole.fills = [], 0, 0.0, False
    Whole.workers = SimpleNamespace(rank=0, count=1, wait=lambda: None)
    for name in ("RANK", "ARC_GPUS", "ARC_SHARD", "ARC_NODES", "ARC_NODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARC_DEVICE", "cpu")
    monkeypatch.setattr(train, "Training", Whole)
    monkeypatch.setattr(train, "Workers", lambda: Whole.workers)

    def begin(**changes: Any) -> list[Any]:
        write(**changes)
        train.main()
        return list(events.Reader(log).new())

    return begin
