"""Answering the test inputs of a split with a checkpoint: shared by the stages `select` and `predict`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import Progress

from model.config.experiment import Evaluation
from model.inference.predictor import Answer, Failure, Predictor
from model.puzzles.arrays import Dataset
from model.storage import checkpoints
from tasks.common import paths
from tasks.common.params import resolved
from tasks.files.tables import read_dataset, read_tasks
from tasks.machine.device import choose


def answers(
    stem: Path,
    split: str,
    evaluation: Evaluation,
    seed: int,
    failures: list[Failure] | None = None,
    share: tuple[int, int] = (0, 1),
) -> tuple[Iterator[Answer], Dataset, list[str]]:
    """Answers of the checkpoint `stem`, the dataset that their `pair` points into, and the task ids by index.

    `failures` collects the answers that raise; without it they end the stage. `share` (k, n) answers every n-th grid
    alone, in the order of their sizes, from the k-th on.
    """
    device, names = choose(), [task["name"] for task in read_tasks()]
    network, description = checkpoints.load(stem, device)
    checkpoints.check_same(stem, description, names, resolved().augment)
    dataset = read_dataset(split, paths.VOTING_VIEWS)
    if evaluation.limit:
        first = np.unique(dataset.pairs.task)[: evaluation.limit]
        kept = dataset.pairs.rows(np.flatnonzero(np.isin(dataset.pairs.task, first)))
        dataset = Dataset(dataset.cells, kept, dataset.views)
    cells = dataset.pairs.input_height * dataset.pairs.input_width
    mine = np.sort(np.argsort(cells, kind="stable")[share[0] :: share[1]])
    dataset = Dataset(dataset.cells, dataset.pairs.rows(mine), dataset.views)
    predictor = Predictor(network, description, dataset, names, seed, device)

    def show() -> Iterator[Answer]:
        with Progress(disable=share[0] > 0) as progress:
            bar = progress.add_task(f"{stem.name}: {len(dataset.pairs)} {split} grids", total=1.0)
            yield from predictor.answer(evaluation, lambda done: progress.update(bar, completed=done), failures)

    return show(), dataset, names
