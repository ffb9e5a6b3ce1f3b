import tasks  # noqa: F401, I001  (sets what OpenMP reads when torch is loaded)

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import yaml

from model.config.experiment import Experiment
from tasks.common import params
from tasks.common.presets import merge
from tasks.common import paths

os.environ["ARC_LIVE"] = "0"  # Trainings of the tests start no process that shows them in MLflow.
ROOT = Path(__file__).parent.parent
# On a loaded machine any example may take longer than Hypothesis' 200 ms.
hypothesis.settings.register_profile("arc", deadline=None)
hypothesis.settings.load_profile("arc")

SMALL: dict[str, Any] = {
    "version": "v3",
    "size": "tiny",
    "dataset": "aa1-6x6",
    "seed": 0,
    "train": {
        "network": {"width": 32, "layers": 2, "heads": 2, "feed_forward": 48, "size_hidden": 16},
        "batch": 8,
        "optimizer_steps": 12,
        "warmup_steps": 2,
        "candidates": 2,
        "log_every": 4,
    },
    "select": {"steps": 2},
    "evaluations": {"attempts": {"steps": 3}, "votes": {"steps": 2, "answers": {"views": 8}}},
}
"""params.yaml of an experiment that takes seconds."""


def experiment(**changes: Any) -> Experiment:
    """The small experiment with sections merged into it."""
    return params.resolve(merge(SMALL, changes), presets())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that of the two processes that share the files none waits long for the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@functools.cache
def presets() -> dict[str, Any]:
    """presets.yaml, read once: it takes 12 ms."""
    return params.read(ROOT / paths.PRESETS)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.manual_seed(0)
    # What reads memory before it is written finds NaN there; a stage that ran in this process has switched it off.
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    # MLflow sets the one for its children, our commands the others; no test may inherit another's store or server.
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    before = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}
    folder = Path.cwd()
    yield
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PREFECT_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the repository root, with the small experiment resolved."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment().model_dump(mode="json")))
    return tmp_path


def puzzles() -> dict[str, Any]:
    """Official files of two training tasks and one evaluation task, small and not square."""
    mirror = {
        "train": [{"input": [[1, 2, 0]], "output": [[0, 2, 1]]}, {"input": [[3, 0, 0]], "output": [[0, 0, 3]]}],
        "test": [{"input": [[4, 5, 0]]}],
    }
    turn = {"train": [{"input": [[1, 2]], "output": [[1], [2]]}], "test": [{"input": [[3, 4]]}, {"input": [[6, 7]]}]}
    return {
        "arc-agi_training_challenges.json": {"aaaaaaaa": mirror, "bbbbbbbb": turn},
        "arc-agi_training_solutions.json": {"aaaaaaaa": [[[0, 5, 4]]], "bbbbbbbb": [[[3], [4]], [[6], [7]]]},
        "arc-agi_evaluation_challenges.json": {"cccccccc": mirror | {"test": [{"input": [[6, 8, 0], [7, 0, 0]]}]}},
        "arc-agi_evaluation_solutions.json": {"cccccccc": [[[0, 8, 6], [0, 0, 7]]]},
    }


@pytest.fixture
def raw(workspace: Path) -> Callable[[dict[str, Any]], None]:
    """Writes official files into data/raw."""

    def write(files: dict[str, Any]) -> None:
        paths.RAW.mkdir(parents=True, exist_ok=True)
        for name, contents in files.items():
            text = contents if isinstance(contents, str) else json.dumps(contents)
            (paths.RAW / name).write_text(text)

    return write
