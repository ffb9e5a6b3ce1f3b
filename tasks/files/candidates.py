"""The candidates of a training: the description that they share, which of them are lost, and their scores."""

import importlib
from pathlib import Path
from typing import Any

import torch

from model.config.experiment import Experiment
from model.config.training import Train
from model.network.device_data import first_rows, task_rows
from model.puzzles.arrays import Dataset
from model.puzzles.leaks import fingerprints
from model.storage import checkpoints
from model.storage.checkpoints import CheckpointError
from tasks.common import events, paths
from tasks.common.documents import read_json
from tasks.common.stage import StageError
from tasks.files import start_checkpoint
from tasks.files.tables import data_digest, read_dataset


def describe(experiment: Experiment, tasks: list[dict[str, Any]], dataset: Dataset) -> dict[str, Any]:
    """The description that every checkpoint of this training shares; `step` and `stopped_early` are added to each.

    Raises StageError for a start that was trained on evaluated pairs, unless prepare.leaks is keep.
    """
    leaks, names = read_json(paths.LEAKS), [task["name"] for task in tasks]
    leaked = set()
    if leaks["leaks"] == "keep":
        leaked = {(entry["task"], entry["test"]) for entry in leaks["pairs_of_other_tasks"]}
    held_out = {names[t] for t in read_dataset("validation", paths.TRAINING_VIEWS).pairs.task}
    with_tests = {names[t] for t in dataset.pairs.task if tasks[t]["origin"] != "evaluation"}
    trained, pairs = with_tests - held_out, set(fingerprints(dataset))
    if experiment.train.finetune.start:
        before = start_checkpoint.describe()
        leaked |= start_checkpoint.leaked(before, leaks)
        trained |= set(before.tests_trained_on)
        pairs |= set(before.pairs_trained_on.split())
        seen = sorted(held_out & set(before.tests_trained_on))
        if seen:
            print(f"the start was trained on the test pairs of {len(seen)} of {len(held_out)} validation tasks")
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
        "first_rows": first_rows(experiment.train.network, dataset.views).tolist(),
        "task_rows": task_rows(experiment.train.network, dataset.views),
        "data": data_digest(),
        "tests_trained_on": sorted(trained),
        "pairs_trained_on": " ".join(sorted(pairs)),
        "leaks": len(leaked),
    }


def lost(folder: Path, config: Train, step: int) -> str | None:
    """Why the candidates in `folder` do not allow to resume after `step` updates; None if they do."""
    every = config.optimizer_steps // config.candidates
    for number in range(every, step + 1, every):
        try:
            checkpoints.check_intact(folder / paths.candidate(number).name)
        except CheckpointError as error:
            return str(error)
    return None


def score(stem: Path, experiment: Experiment) -> None:
    """Print and report the score that `select` will give this candidate.

    It reaches no output of the stage `train`, which would depend on the sampler then: `select` is loaded by its name,
    since an import would be a dependency in dvc.yaml, and editing the sampler would train again.
    """
    measure = importlib.import_module("tasks.select").measure
    try:
        with torch.random.fork_rng():  # Building the candidate's network draws from torch's generators.
            result = measure(stem, experiment.select, experiment.seed)
    except (torch.OutOfMemoryError, MemoryError) as error:
        # Not for an update: half the micro-batch would not help.
        raise StageError(f"scoring the candidate {stem}: {error}", events.reason_of(error)) from error
    low, high = result["ci95"]
    print(
        "candidate of update {step}: pass@2 {pass_at_2:.3f} [{low:.3f}, {high:.3f}], cells right {cell_accuracy:.3f}, "
        "{grids_solved} of {n_grids} grids".format(low=low, high=high, **result),
        flush=True,
    )
    kept = {name: result[name] for name in events.CandidateScored.model_fields if name in result}
    events.emit(events.CandidateScored(**kept))
