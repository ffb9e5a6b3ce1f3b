"""Seconds that a training took, kept in scratch: times are not reproducible, so they are in no DVC output."""

import json
import time
from pathlib import Path
from typing import Any

from model.config.experiment import Experiment
from model.storage import sealed
from model.storage.digests import digest, digest_text
from tasks.common import paths
from tasks.common.documents import read_json
from tasks.common.stage import StageError


def training_key(experiment: Experiment) -> str:
    """Digest of everything that decides the outcome of the experiment's training. Raises OSError."""
    start = sorted(paths.START.glob("checkpoint.*"))
    files = [paths.CELLS, paths.PAIRS, paths.TASKS, paths.TRAINING_VIEWS, paths.VALIDATION_SOLUTIONS]
    tables = digest(*files, *start)
    inputs = json.dumps([experiment.train.model_dump(mode="json"), experiment.seed, tables], sort_keys=True)
    return digest_text(inputs)[:32]


def add(experiment: Experiment, seconds: float, device: str, began: float | None = None) -> None:
    """Add `seconds` that a start of the training, begun at Unix time `began` and ending now, spent on `device`.

    After `finish` they are those of another training of the same inputs, by other code, and counted anew.
    """
    path, now = _path(experiment), time.time()
    try:
        before = read(experiment) or {"seconds": 0.0}
    except StageError as error:  # A training of hours must not end with it.
        print(f"{error}; counted anew from here", flush=True)
        before = {"seconds": 0.0}
    if before.get("finished"):
        before = {"seconds": 0.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    started = before.get("started", now - seconds if began is None else began)
    times = {"started": started, "ended": now}
    sealed.write(path, {"seconds": before["seconds"] + seconds, "device": device, **times})


def finish(experiment: Experiment) -> None:
    """Note that the training came to its end."""
    if spent := read(experiment):
        sealed.write(_path(experiment), {**spent, "finished": True})


def read(experiment: Experiment) -> dict[str, Any] | None:
    """Seconds (summed over all its starts), device, and Unix times `started` and `ended` of the training.

    None if it never ran with this scratch folder.
    """
    path = _path(experiment)
    try:
        return sealed.check(read_json(path), str(path)) if path.exists() else None
    except ValueError as error:
        raise StageError(f"{error}; remove it, and the time of this training is unknown") from error


def _path(experiment: Experiment) -> Path:
    return paths.SCRATCH / "cost" / f"{training_key(experiment)}.json"
