"""An experiment whose stages read every file that they ever read."""

import shutil
from pathlib import Path
from typing import Any

CHANGES: dict[str, Any] = {
    "fetch": {"source": "own"},
    "prepare": {"training_subset": "mine.txt", "validation_tasks": 1},
    "train": {"early_stop": {"every": 4, "patience": 4, "improvement": 0.0}, "finetune": {"start": ""}},
    "predict": {"checkpoints": ["best"], "evaluations": ["attempts", "votes"]},
}
"""What makes stages read files that they would not read otherwise."""


def copy_part(source: Path, target: Path, name: str) -> None:
    """Copy a file or a folder of one root to another, if it is there."""
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if (source / name).is_dir():
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    elif (source / name).exists():
        shutil.copyfile(source / name, target / name)
