"""Answers the test inputs of a split with a checkpoint, for the stages `select` and `predict`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.progress import Progress

from model.config.evaluation import Evaluation, SizeRule
from model.inference.answer import Answer, Failure
from model.inference.measured_sizes import measured_sizes
from model.inference.predictor import Predictor
from model.inference.sizes import agreed_size
from model.puzzles.arrays import Dataset
from model.puzzles.grids import Grid, Size
from model.storage import checkpoints
from tasks.common import paths
from tasks.common.params import resolved
from tasks.files.tables import read_dataset, read_demonstrations, read_tasks
from tasks.machine.device import choose


def answers(
    stem: Path,
    split: str,
    evaluation: Evaluation,
    seed: int,
    failures: list[Failure] | None = None,
    share: tuple[int, int] = (0, 1),
) -> tuple[Iterator[Answer], Dataset, list[str]]:
    """Answers of the checkpoint `stem`, the dataset that `Answer.pair` indexes, and the task ids by index.

    `failures` collects the answers that raise; if it is None, the first error ends the stage. `share` (k, n) answers
    only every n-th grid in the order of size, starting at the k-th.
    """
    device, names = choose(), [task["name"] for task in read_tasks()]
    network, description = checkpoints.load(stem, device, evaluation.weights)
    checkpoints.check_same(stem, description, names, resolved().augment)
    dataset = read_dataset(split, paths.VOTING_VIEWS)
    if split == "evaluation" and not description.leaks:  # What leaks, score refuses or marks.
        refuse_trained_on(stem, description.tests_trained_on, {names[task] for task in dataset.pairs.task})
    if evaluation.limit:
        first = np.unique(dataset.pairs.task)[: evaluation.limit]
        kept = dataset.pairs.rows(np.flatnonzero(np.isin(dataset.pairs.task, first)))
        dataset = Dataset(dataset.cells, kept, dataset.views)
    cells = dataset.pairs.input_height * dataset.pairs.input_width
    own_rows = np.sort(np.argsort(cells, kind="stable")[share[0] :: share[1]])
    dataset = Dataset(dataset.cells, dataset.pairs.rows(own_rows), dataset.views)
    explained = explained_sizes(evaluation.sizes, dataset, names, read_demonstrations)
    predictor = Predictor(network, description, dataset, names, seed, device, explained)

    def show() -> Iterator[Answer]:
        with Progress(disable=share[0] > 0) as progress:
            bar = progress.add_task(f"{stem.name}: {len(dataset.pairs)} {split} grids", total=1.0)
            yield from predictor.answer(evaluation, lambda done: progress.update(bar, completed=done), failures)

    return show(), dataset, names


def refuse_trained_on(stem: Path, trained: Iterable[str], evaluated: Iterable[str]) -> None:
    """Refuse a checkpoint that was trained on test pairs of evaluated tasks, such as of fetch.extra then.

    Raises CheckpointError.
    """
    both = sorted(set(trained) & set(evaluated))
    if both:
        raise checkpoints.CheckpointError(
            f"{stem} was trained on the test pairs of {len(both)} evaluated tasks ({', '.join(both[:3])}); it cannot "
            "be scored on them: train again without them"
        )


def explained_sizes(
    rule: SizeRule, dataset: Dataset, names: list[str], read: Callable[[], Mapping[str, Sequence[tuple[Grid, Grid]]]]
) -> dict[int, Sequence[Size]]:
    """Row of the pairs -> output sizes by what the task's demonstrations say, for the rules 'rule' and 'measured'.

    Rows of which they say nothing are left out. `names` are task ids by index; `read` gives the demonstrations, pairs
    (input, output) by task id, and is called for these rules alone.
    """
    if rule not in ("rule", "measured"):
        return {}
    demonstrations = read()
    explained: dict[int, Sequence[Size]] = {}
    for row in range(len(dataset.pairs)):
        pairs, input_grid = demonstrations.get(names[dataset.pairs.task[row]], ()), dataset.input(row)
        agreed = agreed_size([(_size(before), _size(after)) for before, after in pairs], _size(input_grid))
        if agreed:
            explained[row] = [agreed]
        elif rule == "measured" and (sizes := measured_sizes(pairs, input_grid)):
            explained[row] = sizes[:2]
    return explained


def _size(grid: Grid) -> Size:
    return grid.shape[0], grid.shape[1]
