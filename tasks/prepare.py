"""Stage `prepare`: checked, filtered and packed tasks, their index, the splits, and the leak report.

Training uses every train pair, the test pairs of training tasks that are not held out, and the data of fetch.extra.
Test solutions go to separate files: only `score` reads those of evaluation and, for evaluations of training tasks,
those of training; `select`, and `train` for its looks at held-out pairs, read those of validation.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from model.config.data import REARC
from model.puzzles import leaks
from model.puzzles.arrays import Pairs
from model.puzzles.grids import Grid, Pair, Task
from model.storage.atomic import atomic_path, write_json, write_text
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files.tables import write_table
from tasks.sources import arckit_tasks, extra_tasks
from tasks.sources.extra_tasks import Solved
from tasks.sources.official import read_split
from tasks.sources.selection import keep

Row = tuple[str, int, int, Grid, Grid | None, str]
"""Split, task index, number, input, output, and the origin of the pair."""


def split_rows(
    training: dict[str, Task],
    evaluation: dict[str, Task],
    answers: dict[str, list[Grid]],
    validation: set[str],
    extra: dict[str, str] | None = None,
    generated: dict[str, list[Pair]] | None = None,
) -> list[Row]:
    """Rows of pairs.parquet. `answers` are the solutions of training tasks; `validation` names the held-out ones.

    `extra` is the source of those training tasks that are not of the set, `generated` more pairs of training tasks.
    """
    rows: list[Row] = []
    for index, (name, task) in enumerate([*training.items(), *evaluation.items()]):
        origin = "evaluation" if name in evaluation else (extra or {}).get(name, "training")
        rows += [("train", index, i, pair.input, pair.output, origin) for i, pair in enumerate(task.train)]
        for i, pair in enumerate(task.test):
            if name in training and name not in validation:
                rows.append(("train", index, len(task.train) + i, pair.input, answers[name][i], origin))
                if origin == "training":  # Extra tasks are not evaluated.
                    rows.append(("training", index, i, pair.input, None, origin))
            if name in validation:
                rows.append(("validation", index, i, pair.input, None, origin))
            if name in evaluation:
                rows.append(("evaluation", index, i, pair.input, None, origin))
        if name in training and name not in validation:
            first = len(task.train) + len(task.test)
            pairs = enumerate((generated or {}).get(name, ()), first)
            rows += [("train", index, i, pair.input, pair.output, REARC) for i, pair in pairs]
    return rows


def pack(rows: list[Row]) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], pd.DataFrame]:
    """Cells of every grid back to back, and the table of pairs with offsets into them."""
    cells: list[Grid] = []
    table, offset = [], 0
    for split, task, number, input_grid, answer, origin in rows:
        entry: list[Any] = [split, task, number]
        for grid in (input_grid, answer):
            entry += [offset, *grid.shape] if grid is not None else [-1, 0, 0]
            if grid is not None:
                cells.append(grid.ravel())
                offset += grid.size
        table.append([*entry, origin])
    return np.concatenate(cells), pd.DataFrame(table, columns=["split", *Pairs.__dataclass_fields__, "origin"])


class Evaluated(NamedTuple):
    """A test input with its output."""

    task: str
    number: int
    input: Grid
    output: Grid


def find_leaks(rows: list[Row], evaluated: list[Evaluated], names: list[str]) -> tuple[dict[str, Any], list[Row]]:
    """The leak report, and the training rows that equal an evaluated pair of another task under any view.

    A demonstration that is a view of its own task's test pair is no leak, and is reported separately.
    """
    trained = [row for row in rows if row[0] == "train" and row[4] is not None]
    viewed: dict[bytes, list[Row]] = {}
    for row in trained:
        viewed.setdefault(leaks.canonical(row[3], _known(row)), []).append(row)
    outputs = {leaks.canonical(_known(row)) for row in trained}
    other_tasks: list[dict[str, Any]] = []
    own_task: list[dict[str, Any]] = []
    leaking: list[Row] = []
    for pair in evaluated:
        for row in viewed.get(leaks.canonical(pair.input, pair.output), []):
            same = leaks.exact(row[3], _known(row)) == leaks.exact(pair.input, pair.output)
            entry = {
                "task": pair.task,
                "test": pair.number,
                "how": "as it is" if same else "under a view",
                "trained_as": [names[row[1]], row[2]],
            }
            (own_task if names[row[1]] == pair.task else other_tasks).append(entry)
            if names[row[1]] != pair.task:
                leaking.append(row)
    recurring = sum(leaks.canonical(pair.output) in outputs for pair in evaluated)
    fingerprints: dict[str, list[str]] = {}
    for pair in evaluated:
        fingerprints.setdefault(pair.task, []).append(leaks.fingerprint(pair.input, pair.output))
    report = {
        "pairs_of_other_tasks": other_tasks,
        "own_demonstrations": own_task,
        "outputs_that_recur_alone": recurring,
        "evaluated_pairs": fingerprints,
    }
    return report, leaking


def shared_tasks(names: list[str], edition: str) -> dict[str, Any]:
    """Ids of the tasks that the other ARC set also contains."""
    other = "arcagi2" if edition == "arcagi" else "arcagi"
    sets = arckit_tasks.from_arckit(other)
    return {"other_set": other} | {
        f"tasks_in_its_{s}_set": sorted(set(names) & set(sets[s, "challenges"])) for s in arckit_tasks.SPLITS
    }


@stage("prepare")
def main() -> None:
    """Write data/prepared."""
    experiment = resolved()
    config = experiment.prepare
    training, training_answers = read_split("training")
    evaluation, evaluation_answers = read_split("evaluation")
    in_both = sorted(set(training) & set(evaluation))
    if in_both:
        raise StageError(f"task {in_both[0]} is in both {paths.raw('training', 'challenges')} and the evaluation file")
    training = keep(training, training_answers, config, "training")
    evaluation = keep(evaluation, evaluation_answers, config, "evaluation")
    extra, generated = read_extra(experiment.fetch.extra, config.largest_side)

    pool = sorted(training if config.validation == "held-out-training" else evaluation)
    draws = np.random.Generator(np.random.Philox(key=experiment.seed))
    validation = set(draws.permutation(pool)[: config.validation_tasks].tolist())
    sources = {name: source for source, tasks in extra.items() for name in tasks}
    for tasks in extra.values():
        training |= {name: task for name, (task, _) in tasks.items()}
        training_answers |= {name: outputs for name, (_, outputs) in tasks.items()}
    rows = split_rows(training, evaluation, training_answers, validation, sources, generated)
    answers = training_answers | evaluation_answers
    names = [*training, *evaluation]
    evaluated, held_out = (
        [
            Evaluated(name, i, pair.input, answers[name][i])
            for name, task in tasks.items()
            for i, pair in enumerate(task.test)
        ]
        for tasks in (evaluation, {name: training[name] for name in sorted(validation & set(training))})
    )
    leak_report, leaking = find_leaks(rows, evaluated, names)
    # Pairs that select the checkpoint must not be in the extra data either; within the set itself they may recur.
    held_out_leaks = find_leaks(rows, held_out, names)[1] if experiment.fetch.extra else []
    repeated = {row[:3] for row in held_out_leaks if row[5] in experiment.fetch.extra}
    rows = [row for row in rows if row[:3] not in repeated]
    if config.leaks == "drop":
        dropped = {row[:3] for row in leaking}
        rows = [row for row in rows if row[:3] not in dropped]
    report = leak_report | shared_tasks(names, experiment.fetch.edition) | {"leaks": config.leaks}
    cells, table = pack(rows)

    paths.PREPARED.mkdir(parents=True, exist_ok=True)
    with atomic_path(paths.CELLS) as temporary, temporary.open("wb") as file:
        np.save(file, cells)
    write_table(paths.PAIRS, table)
    origins = dict.fromkeys(evaluation, "evaluation") | dict.fromkeys(training, "training") | sources
    write_json(paths.TASKS, [{"name": name, "origin": origins[name]} for name in names])
    for path, chosen in (
        (paths.VALIDATION_SOLUTIONS, validation),
        (paths.TRAINING_SOLUTIONS, set(training) - validation - set(sources)),
        (paths.EVALUATION_SOLUTIONS, set(evaluation)),
    ):
        solved = {name: [g.tolist() for g in answers[name]] for name in sorted(chosen)}
        write_text(path, json.dumps(solved, separators=(",", ":")))
    write_json(paths.LEAKS, report)
    print(
        f"{len(training)} training tasks, {len(evaluation)} evaluation tasks with "
        f"{len(evaluated)} test grids; {(table['split'] == 'train').sum()} training pairs; "
        f"{len(validation)} validation tasks ({config.validation}); "
        f"{len(repeated)} extra pairs that are validation pairs: dropped; "
        f"{len(leaking)} training pairs that are evaluated pairs of other tasks: {config.leaks}"
    )


def read_extra(sources: Sequence[str], largest_side: int) -> tuple[dict[str, Solved], dict[str, list[Pair]]]:
    """Extra tasks by source, and generated pairs by task, with all sides up to `largest_side`."""
    tasks, generated = dict[str, Solved](), dict[str, list[Pair]]()
    for source in sources:
        if source == REARC:
            for name, pairs in extra_tasks.read_rearc().items():
                generated[name] = [pair for pair in pairs if max(Task(name, (pair,), ()).sides()) <= largest_side]
        else:
            tasks[source] = {
                name: (task, outputs)
                for name, (task, outputs) in extra_tasks.read_tasks(source).items()
                if max(task.sides() + [side for grid in outputs for side in grid.shape]) <= largest_side
            }
    return tasks, generated


def _known(row: Row) -> Grid:
    assert row[4] is not None
    return row[4]


if __name__ == "__main__":
    main()
