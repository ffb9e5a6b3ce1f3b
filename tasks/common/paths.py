"""Where every file of an experiment lies, relative to the repository root, as dvc.yaml names them."""

import os
from pathlib import Path


def home() -> Path:
    """The checkout that owns scratch and the MLflow store: the current folder, as a relative path.

    DVC runs `dvc exp run --temp` and `--queue` in a temporary clone below .dvc/tmp/exps and then deletes it: the
    checkout around it owns them.
    """
    around, temporary, _ = str(Path.cwd()).partition("/.dvc/tmp/exps/")
    return Path(around) if temporary else Path()


PARAMS = Path("params.yaml")
PRESETS = Path("presets.yaml")
EXPERIMENT = Path("data/experiment.yaml")
DIFFERENCES = Path("data/differences.json")
"""What the experiment changes of the presets of its name, for the report."""
STAGES = Path("dvc.yaml")
LOCK = Path("dvc.lock")

OWN = Path("data/own")
"""For the official JSON files of anybody's own tasks."""
RAW = Path("data/raw")
EXTRA = RAW / "extra"
START = Path("data/start")
"""The checkpoint that a fine-tuning starts from, if any; else a file that says so."""
PREPARED = Path("data/prepared")
AUGMENTED = Path("data/augmented")
CHECKPOINTS = Path("data/checkpoints")
PREDICTIONS = Path("data/predictions")
SCORES = Path("data/scores")
SUBMISSIONS = Path("data/submissions")
REPORTS = Path("data/reports")

CELLS = PREPARED / "cells.npy"
PAIRS = PREPARED / "pairs.parquet"
TASKS = PREPARED / "tasks.json"
VALIDATION_SOLUTIONS = PREPARED / "validation_solutions.json"
TRAINING_SOLUTIONS = PREPARED / "training_solutions.json"
EVALUATION_SOLUTIONS = PREPARED / "evaluation_solutions.json"
LEAKS = PREPARED / "leaks.json"

TRAINING_VIEWS = AUGMENTED / "training_views.parquet"
VOTING_VIEWS = AUGMENTED / "voting_views.parquet"

CANDIDATES = CHECKPOINTS / "candidates"
HISTORY = CHECKPOINTS / "history.json"
PROBES = CHECKPOINTS / "probes.json"
"""What every mechanism was seen to do after the training."""
SELECTION = CHECKPOINTS / "selection.json"

PAGE = REPORTS / "report.html"
PUBLISHED = REPORTS / "published.json"
VOTE_POINTS = REPORTS / "votes.json"
METRICS = Path("metrics.json")
"""pass@2 of every evaluation; kept in git."""

SCRATCH = home() / os.environ.get("ARC_SCRATCH", ".scratch")
"""Resume states and timings: no DVC output, keyed by content, shared by the worktrees of a queue."""


def raw(split: str, kind: str) -> Path:
    """An official file: split 'training' or 'evaluation', kind 'challenges' or 'solutions'."""
    return RAW / f"arc-agi_{split}_{kind}.json"


def extra(source: str) -> Path:
    """What `fetch` collected from a source of fetch.extra."""
    return EXTRA / f"{source}.json"


def subset(split: str) -> Path:
    """The task ids to which a split is limited, as `fetch` copied them from data/own; missing if it is not."""
    return RAW / f"{split}_subset.txt"


def candidate(step: int) -> Path:
    """Stem of the checkpoint after `step` updates."""
    return CANDIDATES / f"step-{step:07d}"


def predictions(checkpoint: str, evaluation: str) -> Path:
    """Every view's grid of one checkpoint under one evaluation."""
    return PREDICTIONS / f"{checkpoint}-{evaluation}.parquet"


def score(checkpoint: str, evaluation: str) -> Path:
    """The score of these predictions."""
    return SCORES / f"{checkpoint}-{evaluation}.json"


def submission(checkpoint: str, evaluation: str) -> Path:
    """The same as an official submission."""
    return SUBMISSIONS / f"{checkpoint}-{evaluation}" / "submission.json"
