"""`arc show VERSION/SIZE/DATASET`: prints the experiment of a name, its size, and how it differs from another."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import torch
import typer
import yaml

from model.config.experiment import Experiment
from model.network.denoiser import build
from model.puzzles import grids
from tasks.common import params, paths
from tasks.common.presets import LAYERS, parse_name
from tasks.common.stage import StageError, stage
from tasks.files import arckit_tasks, official_evaluation
from tasks.files.official import read_tasks_by_id
from tasks.files.selection import keep


@stage("show")
def main(
    experiment: Annotated[str, typer.Argument(help="VERSION/SIZE/DATASET, such as v6/smol/aa1")],
    against: Annotated[str | None, typer.Option(help="Another experiment: print only the differences from it.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE that overrides the presets of both.")
    ] = None,
) -> None:
    """Print the resolved experiment and its parameters, or what differs from another."""
    shown = resolve(experiment, overrides or [])
    if against is not None:
        other = resolve(against, overrides or [])
        rows = differences(shown, other)
        print(
            f"{shown.name} against {other.name}: {len(rows)} {'factor differs' if len(rows) == 1 else 'factors differ'}"
        )
        for key, here, there in rows:
            print(f"  {key}: {here} against {there}")
        return
    print(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False), end="")
    training, evaluation = task_counts(shown)
    print(f"# {training} training tasks, {evaluation} evaluation tasks")
    counted = parameters(shown, training, evaluation)
    total = counted.trunk + counted.embeddings
    print(f"# {total:,} parameters: trunk {counted.trunk:,}, embeddings {counted.embeddings:,}")
    print(
        f"# {shown.train.batch * shown.train.accumulation} examples an update, {shown.train.optimizer_steps:,} updates"
    )


def resolve(name: str, overrides: list[str]) -> Experiment:
    """The experiment of a name with KEY=VALUE overrides, seed 0. Raises ConfigurationError."""
    values: Mapping[str, Any] = parse_name(name)
    for assignment in overrides:
        values = params.override(values, assignment)
    return params.resolve(values, params.read(paths.PRESETS), name)


def differences(a: Experiment, b: Experiment) -> list[tuple[str, Any, Any]]:
    """Every parameter in which two experiments differ, with both values; their names are left out."""
    ours, theirs = (dict(_leaves(e.model_dump(mode="json", exclude=set(LAYERS)))) for e in (a, b))
    return [
        (key, ours.get(key, "nothing"), theirs.get(key, "nothing"))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


class Parameters(NamedTuple):
    """Numbers of parameters of a network."""

    trunk: int
    embeddings: int
    """Parameters of the tables of tasks and views."""


def parameters(experiment: Experiment, training: int, evaluation: int) -> Parameters:
    """Parameter counts of the experiment's network for these numbers of tasks; allocates no memory."""
    rows = training + evaluation
    if experiment.train.network.conditioning == "augmented-task":
        rows = training * experiment.augment.training_views + evaluation * experiment.augment.evaluation_views
    with torch.device("meta"):
        network = build(experiment.train, rows)
    tables = network.task_table.weight.numel() + network.conditioning_table.weight.numel()
    return Parameters(sum(p.numel() for p in network.parameters()) - tables, tables)


def task_counts(experiment: Experiment) -> tuple[int, int]:
    """Training and evaluation tasks that the stage `prepare` will keep."""
    counts = []
    official = experiment.fetch.official_evaluation
    for split in arckit_tasks.SPLITS:
        if experiment.fetch.source == "arckit":
            files = arckit_tasks.from_arckit(experiment.fetch.edition)
            challenges, solutions = files[split, "challenges"], files[split, "solutions"]
            if official and split == "evaluation":
                challenges, solutions = (read_tasks_by_id(path) for path in official_evaluation.checked(official).values())
        else:
            if not all((paths.OWN / paths.raw(split, kind).name).exists() for kind in arckit_tasks.KINDS):
                raise StageError(f"{paths.OWN} lacks the {split} files; see {paths.OWN}/README.md")
            challenges, solutions = (read_tasks_by_id(paths.OWN / paths.raw(split, kind).name) for kind in arckit_tasks.KINDS)
        tasks = {name: grids.task(name, value) for name, value in challenges.items()}
        answers = {name: grids.solutions(name, solutions[name], len(task.test)) for name, task in tasks.items()}
        counts.append(len(keep(tasks, answers, experiment.prepare, split)))
    return counts[0], counts[1]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


if __name__ == "__main__":
    typer.run(main)
