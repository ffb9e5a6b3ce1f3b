"""Loss curves of eight updates of every version on a CPU; `python -m tests.golden` writes them."""

from typing import Any

import numpy as np
import torch

from model.content import write_json
from model.corpus import task_rows
from model.training import Training
from tasks import params, paths
from tests.conftest import ROOT, experiment

FOLDER = ROOT / "tests" / "golden"


def curve(version: str) -> dict[str, list[float]]:
    """Loss, accuracy and gradient norm after every update."""
    from tests.test_training import dataset

    config = experiment(version=version, train={"optimizer_steps": 8, "warmup_steps": 4, "log_every": 1}).train
    data = dataset()
    rows = task_rows(config.network, data.views)
    training = Training(data, np.ones(len(data.pairs)), rows, config, 0, torch.device("cpu"))
    training.run(on_row=_ignore, on_candidate=_ignore, on_save=lambda: None, stop=lambda: False)
    return {key: [row[key] for row in training.history] for key in ("loss", "size_cross_entropy", "gradient_norm")}


def _ignore(_: Any) -> None:
    return None


def write() -> None:
    """Keep the curves as they are now."""
    for version, values in params.read(ROOT / paths.PRESETS)["versions"].items():
        if "finetune" in values.get("train", {}):
            continue
        write_json(FOLDER / f"{version}.json", curve(version))
