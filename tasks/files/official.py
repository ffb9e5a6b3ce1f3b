"""Reads the official files and checks every task; every message names the file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from model.puzzles import grids
from model.puzzles.grids import Grid, GridError, Task
from tasks.common import paths


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file; broken JSON and repeated keys are refused. Raises GridError."""

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, n in Counter(key for key, _ in items).items() if n > 1]
        if repeated:
            raise GridError(f"{path}: {repeated[0]!r} occurs twice; every id and key must be unique")
        return dict(items)

    try:
        contents = json.loads(path.read_text(), object_pairs_hook=unique)
    except OSError as error:
        raise GridError(f"{path} cannot be read: {error.strerror}; run the stage fetch") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise GridError(f"{path}: broken JSON: {error}") from error
    if not isinstance(contents, dict) or not contents:
        raise GridError(f"{path}: expected an object of tasks by id, found {str(contents)[:40]}")
    return contents


def read_split(split: str) -> tuple[dict[str, Task], dict[str, list[Grid]]]:
    """Tasks and solutions of 'training' or 'evaluation', in the order of their ids. Raises GridError."""
    challenges, answers = paths.raw(split, "challenges"), paths.raw(split, "solutions")
    tasks = {
        name: _checked(challenges, grids.task, name, value) for name, value in sorted(read_json(challenges).items())
    }
    given = read_json(answers)
    if set(given) != set(tasks):
        unmatched = sorted(set(given) ^ set(tasks))
        raise GridError(f"{answers}: tasks differ from those of {challenges.name}: {', '.join(unmatched[:5])}")
    return tasks, {
        name: _checked(answers, grids.solutions, name, given[name], len(task.test)) for name, task in tasks.items()
    }


def _checked(path: Path, check: Any, *values: Any) -> Any:
    try:
        return check(*values)
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
