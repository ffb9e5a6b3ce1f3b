"""Reads the official files and checks every task; every message names the file."""

from pathlib import Path
from typing import Any

from model.puzzles import grids
from model.puzzles.grids import Grid, GridError, Task
from tasks.common import documents, paths
from tasks.common.documents import DocumentError


def read_official(path: Path) -> dict[str, Any]:
    """An object from a file; broken JSON and repeated keys are refused. Raises GridError."""
    try:
        contents = documents.read_json(path)
    except DocumentError as error:
        fetched = path.parent == paths.RAW and isinstance(error.__cause__, OSError)
        advice = "; run the stage fetch" if fetched else ""
        raise GridError(f"{error}{advice}") from error
    if not isinstance(contents, dict):
        raise GridError(f"{path}: expected an object of tasks by id, found {str(contents)[:40]}")
    if not contents:
        raise GridError(f"{path} holds no tasks; expected an object of tasks by id")
    return contents


def read_split(split: str) -> tuple[dict[str, Task], dict[str, list[Grid]]]:
    """Tasks and solutions of 'training' or 'evaluation', in the order of their ids. Raises GridError."""
    challenges, answers = paths.raw(split, "challenges"), paths.raw(split, "solutions")
    tasks = {
        name: _checked(challenges, grids.task, name, value) for name, value in sorted(read_official(challenges).items())
    }
    outputs = read_official(answers)
    if set(outputs) != set(tasks):
        unmatched = sorted(set(outputs) ^ set(tasks))
        raise GridError(f"{answers}: tasks differ from those of {challenges.name}: {', '.join(unmatched[:5])}")
    return tasks, {
        name: _checked(answers, grids.solutions, name, outputs[name], len(task.test)) for name, task in tasks.items()
    }


def _checked(path: Path, check: Any, *values: Any) -> Any:
    try:
        return check(*values)
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
