"""Predictions of every version on a CPU from fixed random weights; `python -m tests.golden.predictions` writes them.

Kept are the keys of the draws, the gains of self-conditioning, the grids and their confidences.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from model.inference import predictor
from model.inference.denoising import denoise
from model.network.denoiser import Denoiser
from model.storage.atomic import write_text
from tasks import predict
from tasks.common import paths
from tasks.files import predictions
from tests.conftest import ROOT, experiment
from tests.support.presets import VERSIONS
from tests.support.small_experiment import build, save_checkpoint

FILE = ROOT / "tests" / "golden" / "predictions.json"
DIGITS = 3
"""Decimals that two CPUs agree on."""
EVALUATIONS = ("attempts", "votes")


def predicted(version: str) -> dict[str, Any]:
    """Keys, gains, grids and confidences of a version's two evaluations."""
    keys: set[int] = set()
    gains: list[float] = []
    inner = Denoiser.denoise

    def spy(*arguments: Any) -> Any:
        keys.update(arguments[5].tolist())
        return denoise(*arguments)

    def spy_network(self: Denoiser, *arguments: Any) -> Any:
        gains.append(round(float(arguments[5].flatten()[0]), DIGITS))
        return inner(self, *arguments)

    result: dict[str, Any] = {}
    with (
        _workspace(),
        mock.patch.object(predictor, "denoise", spy),
        mock.patch.object(Denoiser, "denoise", spy_network),
    ):
        config = experiment(version=version, prepare={"validation_tasks": 1})
        views = config.augment.voting_views
        build(version=version, evaluations={"votes": {"answers": {"views": min(views, 4)}}})
        save_checkpoint(config, task_rows=_rows(config), first_rows=_first(config))
        for evaluation in EVALUATIONS:
            keys.clear()
            gains.clear()
            predict.main("best", evaluation)
            frame, _ = predictions.read(paths.predictions("best", evaluation))
            result[evaluation] = {
                "keys": sorted(keys),
                "gains": list(dict.fromkeys(gains)),
                "grids": ["/".join("".join(map(str, row)) for row in grid.tolist()) for grid in frame["grid"]],
                "confidences": [round(float(value), DIGITS) for value in frame["confidence"]],
            }
    return result


def _rows(config: Any) -> int:
    from model.network.device_data import task_rows
    from tasks.files.tables import read_dataset

    return int(task_rows(config.train.network, read_dataset("train", paths.TRAINING_VIEWS).views))


def _first(config: Any) -> list[int]:
    from model.network.device_data import first_rows
    from tasks.files.tables import read_dataset

    return [int(row) for row in first_rows(config.train.network, read_dataset("train", paths.TRAINING_VIEWS).views)]


@contextlib.contextmanager
def _workspace() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("data").mkdir()
        yield


def kept() -> dict[str, Any]:
    """The predictions as they were written."""
    return dict(json.loads(FILE.read_text()))


if __name__ == "__main__":
    found = {version: predicted(version) for version in VERSIONS}
    write_text(FILE, json.dumps(found, indent=None, sort_keys=True).replace("}, ", "},\n") + "\n")
