"""More training data than the set itself has, as `fetch` collected it (extra_sources.py), checked.

Files of data/raw/extra, one a source: of the source 'rearc' {task: [pair, ...]}, of every other one
{task: {"train": [pair, ...], "test": [pair, ...]}}; a pair is {"input", "output"}.
"""

from pathlib import Path
from typing import Any

from model.config.data import REARC
from model.puzzles import grids
from model.puzzles.grids import Grid, GridError, Pair, Task
from tasks.common import paths
from tasks.sources.official import read_official

Solved = dict[str, tuple[Task, list[Grid]]]
"""Tasks with the outputs of their test inputs, by id."""


def read_tasks(source: str) -> Solved:
    """The tasks of a source, checked. Raises GridError."""
    path = paths.extra(source)
    return {name: checked(path, name, value) for name, value in sorted(read_official(path).items())}


def read_rearc() -> dict[str, list[Pair]]:
    """The generated pairs by task."""
    return {
        name: [
            Pair(*(grids.grid(pair[side], f"task {name}, {side}") for side in ("input", "output"))) for pair in pairs
        ]
        for name, pairs in sorted(read_official(paths.extra(REARC)).items())
    }


def checked(path: Path, name: str, value: Any) -> tuple[Task, list[Grid]]:
    """A task that holds its test outputs. Raises GridError."""
    try:
        tests = value.get("test") if isinstance(value, dict) else None
        if not isinstance(tests, list) or not all(isinstance(pair, dict) and "output" in pair for pair in tests):
            raise GridError(f"task {name}: expected an object with 'test', a list of pairs with 'input' and 'output'")
        inputs = [{key: grid for key, grid in pair.items() if key != "output"} for pair in tests]
        task = grids.task(name, {**value, "test": inputs})
        return task, grids.solutions(name, [pair["output"] for pair in tests], len(tests))
    except GridError as error:
        raise GridError(f"{path}: {error}") from None
