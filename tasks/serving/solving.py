"""Answers tasks of official JSON with a checkpoint; `arc solve` and the models in MLflow share it.

A checkpoint has one embedding per task, so it can only answer tasks whose id is in its task index. Where its training
pairs are known, the demonstrations must be equal too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.config.evaluation import Evaluation, Score
from model.inference.answer import Failure
from model.inference.predictor import Predictor
from model.network.denoiser import Denoiser
from model.puzzles import grids
from model.puzzles.arrays import Dataset, Pairs
from model.puzzles.grids import Grid, Task
from model.puzzles.views import make_views, output_only_colours, voting_seed
from model.scoring.proposals import Proposals, collect_proposals
from model.scoring.scores import Key, attempts_of
from model.scoring.votes import visited_share
from model.storage.checkpoints import Description
from tasks.common import paths
from tasks.machine.answers import explained_sizes

Trained = Mapping[Key, tuple[Grid, Grid | None]]
"""Training pairs by task and number."""
Demonstrations = Mapping[str, Sequence[tuple[Grid, Grid]]]
"""Demonstrations by task id."""


class Unknown(NamedTuple):
    """A task that a checkpoint cannot answer."""

    task: str
    reason: str


def parse(contents: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks of official JSON; outputs of test pairs, which files of single tasks have, are ignored.

    Raises GridError.
    """
    tasks = {}
    for name, value in contents.items():
        if isinstance(value, Mapping) and isinstance(value.get("test"), list):
            tests = [{"input": p["input"]} if isinstance(p, Mapping) and "input" in p else p for p in value["test"]]
            value = {**value, "test": tests}
        tasks[name] = grids.task(name, value)
    return tasks


def recognise(
    tasks: Mapping[str, Task], description: Description, trained: Trained | None
) -> tuple[dict[str, Task], list[Unknown]]:
    """The tasks that the checkpoint can answer, and the others; without `trained` only their ids are compared."""
    known, unknown = {}, []
    for name, task in tasks.items():
        if name not in description.tasks:
            unknown.append(Unknown(name, "not in its task index"))
        elif trained is not None and not _same(task, trained):
            unknown.append(Unknown(name, "trained on other demonstrations under this id"))
        else:
            known[name] = task
    return known, unknown


def advice(unknown: Sequence[Unknown]) -> str:
    """The unknown tasks, the reasons, and what to do."""
    named = ", ".join(f"{u.task} ({u.reason})" for u in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
    return (
        f"{named}; the checkpoint has to be fine-tuned on their demonstrations: put them into {paths.OWN} "
        f"(see {paths.OWN}/README.md) and train with fetch.source: own"
    )


def answer(
    network: Denoiser,
    description: Description,
    tasks: Mapping[str, Task],
    config: Evaluation,
    rule: Score,
    trained: Trained | None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> tuple[dict[Key, list[Grid]], dict[Key, Proposals], list[str]]:
    """Attempts and proposals for every test input, and the failures. Draws equal those of the stage `predict`."""
    shown = _shown(tasks, trained)
    dataset, keys = _dataset(tasks, description, shown)
    names, device = list(description.tasks), next(network.parameters()).device
    explained = explained_sizes(config.sizes, dataset, names, lambda: shown)
    predictor = Predictor(network, description, dataset, names, description.seed, device, explained)
    failures: list[Failure] = []
    answers = list(predictor.answer(config, on_progress, failures))
    rows: dict[Key, list[tuple[Grid, int, float, float, float]]] = {}
    for a in sorted(answers, key=lambda a: (a.pair, a.attempt, a.view)):
        number, visited = config.number(a.view, a.attempt), visited_share(a.last_changed_step, config.steps)
        likelihood = np.nan if a.log_likelihoods is None else float(a.log_likelihoods.mean())
        rows.setdefault(keys[a.pair], []).append((a.grid, number, a.confidence, visited, likelihood))
    views = {key: collect_proposals(*zip(*proposed, strict=True)) for key, proposed in rows.items()}
    failed = [
        f"task {keys[f.pair][0]}, test {keys[f.pair][1]}, view {f.view}, attempt {f.attempt}: {f.message}"
        for f in failures
    ]
    return attempts_of(views, config, rule.rule, rule.size_first, rule.views, rule.likelihood), views, failed


def _dataset(tasks: Mapping[str, Task], description: Description, shown: Demonstrations) -> tuple[Dataset, list[Key]]:
    """The test inputs as the stages `prepare` and `augment` would store them."""
    index = {name: i for i, name in enumerate(description.tasks)}
    keys = [(name, i) for name, task in tasks.items() for i in range(len(task.test))]
    inputs = [tasks[name].test[i].input for name, i in keys]
    ends = np.cumsum([0, *(grid.size for grid in inputs)])
    height, width = np.array([grid.shape for grid in inputs], dtype=np.int64).T
    none = np.zeros(len(keys), dtype=np.int64)
    pairs = Pairs(
        task=np.array([index[name] for name, _ in keys], dtype=np.int64),
        number=np.array([i for _, i in keys], dtype=np.int64),
        input_offset=ends[:-1].astype(np.int64),
        input_height=height,
        input_width=width,
        output_offset=none - 1,
        output_height=none,
        output_width=none,
    )
    counts = np.full(len(index), description.augment.voting_views)
    seed = voting_seed(description.train.network.conditioning, description.seed)
    output_only = [output_only_colours(shown.get(name, ())) for name in description.tasks]
    views = make_views(description.augment, counts, seed, output_only)
    return Dataset(np.concatenate([grid.ravel() for grid in inputs]), pairs, views), keys


def _shown(tasks: Mapping[str, Task], trained: Trained | None) -> Demonstrations:
    """Demonstrations by task id, without leaks that `prepare` dropped; test pairs trained on are none."""
    return {
        name: [
            (pair.input, pair.output)
            for number, pair in enumerate(task.train)
            if pair.output is not None and (trained is None or (name, number) in trained)
        ]
        for name, task in tasks.items()
    }


def _same(task: Task, trained: Trained) -> bool:
    """Whether every demonstration equals the training pair of its number; dropped leaks may be missing there."""
    for i, pair in enumerate(task.train):
        before = trained.get((task.name, i))
        both = zip(before, (pair.input, pair.output), strict=True) if before else ()
        if any(a is None or b is None or not np.array_equal(a, b) for a, b in both):
            return False
    return True
