"""Stage `train`: candidates at even intervals (halfway and final among them) and the history of metrics.

Until it is done everything lies in scratch, keyed by the content of the inputs: a training that was killed and is
started again goes on from its last save and ends with the bytes of an unbroken one.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model import checkpoints
from model.checkpoints import Description
from model.configuration import Experiment
from model.content import write_json
from model.corpus import first_rows, task_rows
from model.dataset import Views
from model.training import Stopped, Training
from tasks import cost, paths
from tasks.device import choose
from tasks.params import resolved
from tasks.stage import StageError, stage
from tasks.tables import data_digest, read_dataset, read_tasks


@stage("train")
def main() -> None:
    """Write data/checkpoints/candidates and history.json."""
    experiment, device = resolved(), choose()
    tasks = read_tasks()
    dataset = read_dataset("train", paths.TRAINING_VIEWS)
    weight = np.where(
        [tasks[t]["origin"] == "evaluation" for t in dataset.pairs.task],
        experiment.train.evaluation_weight,
        1.0,
    )
    rows = task_rows(experiment.train.network, dataset.views)
    training = Training(dataset, weight, rows, experiment.train, experiment.seed, device)
    scratch = paths.SCRATCH / "train" / cost.training_key(experiment)
    scratch.mkdir(parents=True, exist_ok=True)
    if (scratch / "state.safetensors").exists():
        restore(training, scratch / "state.safetensors")
        print(f"going on after update {training.step} of {experiment.train.optimizer_steps}", flush=True)
    description = describe(experiment, [task["name"] for task in tasks], dataset.views)
    started = time.monotonic()
    try:
        run(training, scratch, description)
    finally:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        cost.add(experiment, time.monotonic() - started, name)
    shutil.rmtree(paths.CANDIDATES, ignore_errors=True)
    paths.CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch / "candidates", paths.CANDIDATES)
    write_json(paths.HISTORY, training.history)
    shutil.rmtree(scratch)


def run(training: Training, scratch: Path, description: dict[str, Any]) -> None:
    """Train to the end, with a progress bar; SIGTERM and Ctrl-C save first. Raises StageError when stopped."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopping.append(n))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=training.config.optimizer_steps, completed=training.step)

        def on_row(row: dict[str, float]) -> None:
            text = f"loss {row['loss']:.3f} accuracy {row['accuracy']:.3f}"
            progress.update(bar, completed=int(row["step"]), description=text)
            if not progress.console.is_terminal:
                print(f"update {int(row['step'])} of {training.config.optimizer_steps}: {text}", flush=True)

        def on_candidate(step: int) -> None:
            stem = scratch / "candidates" / paths.candidate(step).name
            checkpoints.save(stem, training.weights(), Description.model_validate(description | {"step": step}))

        def stop() -> bool:
            return bool(stopping)

        try:
            training.run(
                on_row=on_row,
                on_candidate=on_candidate,
                on_save=lambda: save(training, scratch / "state.safetensors"),
                stop=stop,
            )
        except Stopped as stopped:
            raise StageError(f"{stopped}; start the stage again to go on") from None


def save(training: Training, path: Path) -> None:
    """Write the resume state atomically; it survives a power cut."""
    tensors, plain = training.state()
    part = path.with_name(path.name + ".part")
    save_file({k: v.detach().cpu().clone() for k, v in tensors.items()}, part, metadata={"plain": json.dumps(plain)})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def restore(training: Training, path: Path) -> None:
    """Go back to a saved state."""
    with safe_open(path, framework="pt") as file:
        plain = json.loads(file.metadata()["plain"])
    training.restore(load_file(path, device=str(training.device)), plain)


def describe(experiment: Experiment, names: list[str], views: Views) -> dict[str, Any]:
    """What every checkpoint of this training says of itself, but for its step."""
    leaks = json.loads(paths.LEAKS.read_text())
    return {
        "format": checkpoints.FORMAT,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "optimizer_steps": experiment.train.optimizer_steps,
        "weights": experiment.train.evaluated_weights,
        "train": experiment.train,
        "prepare": experiment.prepare,
        "augment": experiment.augment,
        "tasks": names,
        "first_rows": first_rows(experiment.train.network, views).tolist(),
        "task_rows": task_rows(experiment.train.network, views),
        "data": data_digest(),
        "leaks": len(leaks["pairs_of_other_tasks"]) if leaks["leaks"] == "keep" else 0,
    }


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
