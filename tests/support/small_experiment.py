"""A prepared data set of four small puzzles and untrained checkpoints for it: predict, score and solve in seconds."""

import json
from typing import Any

import torch
import yaml

from model.config.experiment import Experiment
from model.config.training import WeightsKind
from model.network.denoiser import build as build_network
from model.puzzles.grids import Grid
from model.storage import checkpoints
from tasks import augment, fetch, prepare
from tasks.common import paths
from tasks.files import tables
from tests.conftest import experiment

MIRROR = {
    "train": [{"input": [[1, 2, 0]], "output": [[0, 2, 1]]}, {"input": [[3, 0, 0]], "output": [[0, 0, 3]]}],
    "test": [{"input": [[4, 5, 0]]}],
}
TURN = {
    "train": [{"input": [[1, 2]], "output": [[1], [2]]}, {"input": [[5, 2]], "output": [[5], [2]]}],
    "test": [{"input": [[3, 4]]}, {"input": [[6, 7]]}],
}
FILES: dict[str, Any] = {
    "arc-agi_training_challenges.json": {"aaaaaaaa": MIRROR, "bbbbbbbb": TURN},
    "arc-agi_training_solutions.json": {"aaaaaaaa": [[[0, 5, 4]]], "bbbbbbbb": [[[3], [4]], [[6], [7]]]},
    "arc-agi_evaluation_challenges.json": {
        "cccccccc": {
            "train": [{"input": [[6, 8, 0], [7, 0, 0]], "output": [[0, 8, 6], [0, 0, 7]]}],
            "test": [{"input": [[1, 8, 0], [7, 2, 0]]}],
        },
        "dddddddd": {
            "train": [{"input": [[1, 1, 2]], "output": [[1], [1], [2]]}],
            "test": [{"input": [[3, 1, 4]]}, {"input": [[9, 2, 6]]}],
        },
    },
    "arc-agi_evaluation_solutions.json": {
        "cccccccc": [[[0, 8, 1], [0, 2, 7]]],
        "dddddddd": [[[3], [1], [4]], [[9], [2], [6]]],
    },
}
CHALLENGES = "arc-agi_evaluation_challenges.json"
ANSWERS = FILES["arc-agi_evaluation_solutions.json"]

KINDS: tuple[WeightsKind, ...] = ("ema", "raw")

VOTING: dict[str, Any] = {
    "weights": "as-trained",
    "steps": 6,
    "time_map": "spaced",
    "sampler": "draw",
    "self_conditioning": "as-trained",
    "answers": {"by": "votes", "views": 4},
    "sizes": "own",
    "transposed_sizes": "swapped",
    "task_row": "view",
    "stop_decided": None,
    "ranking": None,
    "subset": "evaluation",
    "limit": 0,
}
"""An evaluation by four views."""


def build(files: dict[str, Any] = FILES, **changes: Any) -> Experiment:
    """Write raw and prepared data and the views of the small experiment into the working folder."""
    config = experiment(**({"prepare": {"validation_tasks": 1}} | changes))
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    paths.RAW.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (paths.RAW / name).write_text(json.dumps(contents))
    prepare.main()
    augment.main()
    paths.CHECKPOINTS.mkdir(exist_ok=True)
    paths.SELECTION.write_text(json.dumps({"on_the_reported_set": False}))
    return config


def save_checkpoint(config: Experiment, name: str = "best", **changes: Any) -> checkpoints.Description:
    """A checkpoint with random weights for the data in the working folder; `changes` to its description."""
    names = tuple(task["name"] for task in tables.read_tasks())
    values = {
        "format": checkpoints.FORMAT,
        "experiment": config.name,
        "seed": config.seed,
        "step": 1,
        "optimizer_steps": config.train.optimizer_steps,
        "stopped_early": False,
        "weights": "raw",
        "train": config.train,
        "prepare": config.prepare,
        "augment": config.augment,
        "tasks": names,
        "first_rows": list(range(len(names))),
        "task_rows": len(names),
        "data": tables.data_digest(),
        "tests_trained_on": [],
        "pairs_trained_on": "",
        "leaks": 0,
    }
    description = checkpoints.Description.model_validate(values | changes)
    draws = torch.Generator().manual_seed(3)
    network = build_network(config.train, description.task_rows)
    # All weights random: the colours' are zero at the start, and every answer would be the same.
    weights: dict[WeightsKind, dict[str, torch.Tensor]] = {
        kind: {
            key: torch.randn(value.shape, generator=draws) / max(1, value.shape[-1]) ** 0.5
            for key, value in network.state_dict().items()
        }
        for kind in KINDS
    }
    checkpoints.save(paths.CHECKPOINTS / name, weights, description)
    return description


def arc_1() -> dict[str, list[Grid]]:
    """All tasks of ARC-AGI-1 prepared in the working folder; the solutions of the 400 evaluation tasks."""
    config = experiment(dataset="aa1")
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fetch.main()
    prepare.main()
    return tables.read_solutions("evaluation")
