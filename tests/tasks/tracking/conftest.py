"""A finished small experiment as the repository root, for the tests of publishing."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tasks import augment, predict, prepare, score, select, train
from tasks.common import paths
from tasks.tracking import store
from tests.conftest import experiment, puzzles
from tests.support.published_experiment import PAGE, PAIRS


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the result of a real experiment on three tasks."""
    folder = tmp_path_factory.mktemp("result")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = experiment(predict={"checkpoints": ["best", "final"]})
        paths.RAW.mkdir(parents=True)
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        for name, contents in puzzles().items():
            (paths.RAW / name).write_text(json.dumps(contents))
        for stage in (prepare, augment, train, select):
            stage.main()
        for pair in PAIRS:
            predict.main(*pair.split("-"))
            score.main(*pair.split("-"))
        paths.REPORTS.mkdir()
        paths.PAGE.write_text(PAGE)
        store.create(store.Store("", folder / "mlflow.db", folder / "mlartifacts"))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return folder


@pytest.fixture
def repository(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the result as the repository root, with an empty database, which takes a second to make."""
    handler = signal.getsignal(signal.SIGTERM)
    shutil.copytree(result, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path / "root"
    signal.signal(signal.SIGTERM, handler)
