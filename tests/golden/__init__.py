"""Loss curves of eight updates of every version on a CPU; `python -m tests.golden` writes them."""

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from model.network.device_data import task_rows
from model.storage.atomic import write_json
from model.training.trainer import Training
from tasks import augment, fetch, prepare, select, train
from tasks.common import paths
from tests.conftest import ROOT, experiment
from tests.support.presets import FINETUNINGS, STARTS, VERSIONS
from tests.support.small_training import dataset

FOLDER = ROOT / "tests" / "golden"
EIGHT = {"optimizer_steps": 8, "warmup_steps": 4, "log_every": 1}
KEPT = ("loss", "size_cross_entropy", "gradient_norm")


def curve(version: str) -> dict[str, list[float]]:
    """Loss, size loss and gradient norm after every update."""
    config = experiment(version=version, train=EIGHT).train
    data = dataset()
    rows = task_rows(config.network, data.views)
    training = Training(data, np.ones(len(data.pairs)), rows, config, 0, torch.device("cpu"))
    training.run(on_row=_ignore, on_candidate=_ignore, on_save=lambda: None, stop=lambda: False)
    return {key: [row[key] for row in training.history] for key in KEPT}


def fine_tuned_curves() -> dict[str, dict[str, list[float]]]:
    """The same of every fine-tuning, through the stages, from its version after eight updates."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        paths.RAW.mkdir(parents=True)
        for name, contents in puzzles().items():
            (paths.RAW / name).write_text(json.dumps(contents))
        paths.OWN.mkdir(parents=True)
        histories: dict[str, list[Mapping[str, float]]] = {}
        for start in sorted(set(STARTS.values())):
            _train(start)
            select.main()
            for suffix in (".safetensors", ".json"):
                (paths.OWN / f"start{suffix}").write_bytes((paths.CHECKPOINTS / f"final{suffix}").read_bytes())
            histories |= {name: _train(start, name) for name in FINETUNINGS if STARTS[name] == start}
    return {name: {key: [row[key] for row in histories[name]] for key in KEPT} for name in FINETUNINGS}


def _train(version: str, finetuning: str = "none") -> list[Mapping[str, float]]:
    prepared: dict[str, Any] = {"validation_tasks": 1}
    if finetuning.startswith("test-time-1") and version == "v1":  # The lab's lists name none of these tasks.
        count = finetuning.removeprefix("test-time-")
        prepared["evaluation_subset"] = f"shortest-{count}"
    config = experiment(version=version, finetuning=finetuning, train=EIGHT, prepare=prepared)
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fetch.copy_start(config.train.finetune.start)
    for stage in (prepare, augment, train):
        stage.main()
    return list(json.loads(paths.HISTORY.read_text()))


def puzzles() -> dict[str, Any]:
    """Official files of four training tasks and twelve evaluation tasks of random grids, each larger than the last."""
    draws = np.random.default_rng(5)

    def grid(side: int) -> list[list[int]]:
        return [[int(cell) for cell in row] for row in draws.integers(0, 10, (1 + side // 3, 1 + side // 2))]

    files: dict[str, Any] = {}
    for split, count in (("training", 4), ("evaluation", 12)):
        challenges, solutions = {}, {}
        for i in range(count):
            name = f"{split[0]}{i:07d}"
            train_pairs = [{"input": grid(i), "output": grid(i)} for _ in range(2)]
            challenges[name] = {"train": train_pairs, "test": [{"input": grid(i)}]}
            solutions[name] = [grid(i)]
        files[f"arc-agi_{split}_challenges.json"] = challenges
        files[f"arc-agi_{split}_solutions.json"] = solutions
    return files


def _ignore(_: Any) -> None:
    return None


def kept(version: str) -> dict[str, list[float]]:
    """The curve as it was written."""
    return dict(json.loads(_file(version).read_text()))


def write() -> None:
    """Keep the curves as they are now."""
    for version, found in ({version: curve(version) for version in VERSIONS} | fine_tuned_curves()).items():
        write_json(_file(version), found)


def _file(version: str) -> Path:
    return FOLDER / f"{version}.json"
