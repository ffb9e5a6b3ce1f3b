"""Answering the test inputs of a split with a checkpoint: shared by the stages `select` and `predict`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import Progress

from model import checkpoints
from model.configuration import Evaluation
from model.dataset import Dataset
from model.prediction import Answer, Failure, Predictor
from tasks import paths
from tasks.device import choose
from tasks.params import resolved
from tasks.tables import read_dataset, read_tasks


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
