"""`arc solve FILE.json --checkpoint STEM`: answers an official ARC file, draws the attempts and writes a submission.

A checkpoint has one embedding per task, so it can only answer tasks whose id is in its task index. If data/prepared is
the data that it was trained on, the demonstrations must be equal too; else the id is trusted, with a note. Unknown
tasks are listed, and are black cells in the submission.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from model.config.evaluation import Evaluation, Score
from model.inference.predictor import Failure, Predictor
from model.puzzles import grids
from model.puzzles.arrays import Dataset, Pairs
from model.puzzles.grids import Grid, GridError, Task
from model.puzzles.views import make_views, output_only_colours, voting_seed
from model.scoring.proposals import Proposals, collect_proposals
from model.scoring.scores import Key, attempts_of
from model.scoring.votes import visited_share
from model.storage import checkpoints
from model.storage.checkpoints import Description
from tasks.common import paths
from tasks.common.params import load, resolved
from tasks.common.stage import StageError, stage
from tasks.files.official import read_official
from tasks.files.tables import data_digest, read_demonstrations, read_pairs
from tasks.machine.answers import agreed_sizes
from tasks.reporting.drawing import Strip

Trained = Mapping[Key, tuple[Grid, Grid | None]]
"""Training pairs by task and number."""


class Unknown(NamedTuple):
    """A task that a checkpoint cannot answer."""

    task: str
    reason: str


@stage("solve")
def main(
    file: Annotated[Path, typer.Argument(help="An official file of challenges, or of one task")],
    checkpoint: Annotated[Path, typer.Option(help="Such as data/checkpoints/best, without a suffix")],
    evaluation: Annotated[str, typer.Option(help="Name of an evaluation under `evaluations`")] = "votes",
    output: Annotated[Path | None, typer.Option(help="The submission; data/submissions/... by default")] = None,
    draw: Annotated[bool, typer.Option(help="Draw the attempts")] = True,
) -> None:
    """Answer an official ARC file with a checkpoint: attempts in the terminal, and a submission."""
    from tasks.files import submission
    from tasks.reporting.terminal import show

    stem = checkpoint.with_suffix("") if checkpoint.suffix in (".safetensors", ".json") else checkpoint
    tasks, description = read_tasks(file), checkpoints.describe(stem)
    experiment = resolved() if paths.EXPERIMENT.exists() else load()
    if evaluation not in experiment.evaluations:
        raise StageError(f"--evaluation is {evaluation!r}; defined are {', '.join(experiment.evaluations)}")
    config = experiment.evaluations[evaluation]
    if config.views > description.augment.voting_views:
        raise StageError(
            f"evaluation {evaluation} has {config.views} views; {stem} has {description.augment.voting_views} voting "
            "views: choose another evaluation, or set answers.views in params.yaml"
        )
    known, unknown, checked = recognise(tasks, description)
    if not known:
        raise StageError(f"{stem} knows none of the {len(tasks)} tasks of {file}; {advice(unknown)}")
    path = output or paths.SUBMISSIONS / f"{stem.name}-{file.stem}" / "submission.json"

    attempts, views, failures = answer(known, stem, config, experiment.score)
    console = Console()
    if draw:
        for task in known.values():
            show(console, strips(task, attempts, views))
    submission.write(path, submission.submission({name: len(task.test) for name, task in tasks.items()}, attempts))
    console.print(f"\n{len(known)} of {len(tasks)} tasks answered by {stem}, written to {path}", highlight=False)
    if not checked:
        console.print("tasks were matched by id only: data/prepared is not the data that the checkpoint was trained on")
    for failure in failures:
        console.print(f"[yellow]failed: {failure}[/]", highlight=False)
    if unknown:
        console.print(
            f"[yellow]{len(unknown)} tasks are black cells in the submission: {advice(unknown)}[/]", highlight=False
        )


def read_tasks(file: Path) -> dict[str, Task]:
    """Tasks of a challenges file, or the one of a file {"train", "test"} under the file's name. Raises GridError.

    Outputs of test pairs, which files of single tasks contain, are ignored.
    """
    contents = read_official(file)
    if set(contents) == {"train", "test"}:
        contents = {file.stem: contents}
    tasks = {}
    for name, value in contents.items():
        if isinstance(value, Mapping) and isinstance(value.get("test"), list):
            tests = [{"input": p["input"]} if isinstance(p, Mapping) and "input" in p else p for p in value["test"]]
            value = {**value, "test": tests}
        try:
            tasks[name] = grids.task(name, value)
        except GridError as error:
            raise GridError(f"{file}: {error}") from None
    return tasks


def recognise(tasks: Mapping[str, Task], description: Description) -> tuple[dict[str, Task], list[Unknown], bool]:
    """The tasks that the checkpoint can answer, the others, and whether demonstrations could be compared."""
    trained = _demonstrations(description)
    known, unknown = {}, []
    for name, task in tasks.items():
        if name not in description.tasks:
            unknown.append(Unknown(name, "not in its task index"))
        elif trained is not None and not _same(task, trained):
            unknown.append(Unknown(name, "trained on other demonstrations under this id"))
        else:
            known[name] = task
    return known, unknown, trained is not None


def advice(unknown: Sequence[Unknown]) -> str:
    """The unknown tasks, the reasons, and what to do."""
    named = ", ".join(f"{u.task} ({u.reason})" for u in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
    return (
        f"{named}; the checkpoint has to be fine-tuned on their demonstrations: put them into {paths.OWN} "
        f"(see {paths.OWN}/README.md) and train with fetch.source: own"
    )


def answer(
    tasks: Mapping[str, Task], stem: Path, config: Evaluation, rule: Score
) -> tuple[dict[Key, list[Grid]], dict[Key, Proposals], list[str]]:
    """Attempts and proposals for every test input, and the failures. Draws equal those of the stage `predict`."""
    from tasks.machine.device import choose

    network, description = checkpoints.load(stem, choose(), config.weights)
    dataset, keys = _dataset(tasks, description)
    names, device = list(description.tasks), next(network.parameters()).device
    agreed = agreed_sizes(dataset, names, _shown(tasks, description)) if config.sizes == "rule" else {}
    predictor = Predictor(network, description, dataset, names, description.seed, device, agreed)
    failures: list[Failure] = []
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"{stem.name}: {len(keys)} test grids", total=1.0)
        answers = list(predictor.answer(config, lambda done: progress.update(bar, completed=done), failures))
    rows: dict[Key, list[tuple[Grid, int, float, float]]] = {}
    for a in sorted(answers, key=lambda a: (a.pair, a.attempt, a.view)):
        number, visited = config.number(a.view, a.attempt), visited_share(a.last_changed_step, config.steps)
        rows.setdefault(keys[a.pair], []).append((a.grid, number, a.confidence, visited))
    views = {key: collect_proposals(*zip(*proposed, strict=True)) for key, proposed in rows.items()}
    failed = [
        f"task {keys[f.pair][0]}, test {keys[f.pair][1]}, view {f.view}, attempt {f.attempt}: {f.message}"
        for f in failures
    ]
    return attempts_of(views, config, rule.rule, rule.size_first, rule.views), views, failed


def strips(task: Task, attempts: Mapping[Key, Sequence[Grid]], views: Mapping[Key, Proposals]) -> list[Strip]:
    """A task's test inputs with their attempts."""
    drawn = []
    for i, pair in enumerate(task.test):
        given, cells = views.get((task.name, i)), [("test input", pair.input)]
        for number, grid in enumerate(attempts.get((task.name, i), ())):
            same = sum(np.array_equal(given.candidates[c], grid) for c in given.choice) if given else 0
            cells.append((f"attempt {number + 1}\n{same} of {len(given.choice) if given else 0} proposals", grid))
        drawn.append(Strip(f"task {task.name}, test {i}" + ("" if len(cells) > 1 else ": no answer"), cells))
    return drawn


def _dataset(tasks: Mapping[str, Task], description: Description) -> tuple[Dataset, list[Key]]:
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
    shown = _shown(tasks, description)
    output_only = [output_only_colours(shown.get(name, ())) for name in description.tasks]
    views = make_views(description.augment, counts, seed, output_only)
    return Dataset(np.concatenate([grid.ravel() for grid in inputs]), pairs, views), keys


def _shown(tasks: Mapping[str, Task], description: Description) -> dict[str, list[tuple[Grid, Grid]]]:
    """Demonstrations by task id: the training pairs if data/prepared fits the checkpoint, else those of the file."""
    if _demonstrations(description) is not None:
        return read_demonstrations()
    return {
        name: [(pair.input, pair.output) for pair in task.train if pair.output is not None]
        for name, task in tasks.items()
    }


def _demonstrations(description: Description) -> Trained | None:
    """Pairs of data/prepared, if the checkpoint was trained on that data."""
    if not all(path.exists() for path in (paths.CELLS, paths.PAIRS, paths.TASKS)):
        return None
    return read_pairs("train") if data_digest() == description.data else None


def _same(task: Task, trained: Trained) -> bool:
    """Whether every demonstration equals the training pair of its number; dropped leaks may be missing there."""
    for i, pair in enumerate(task.train):
        before = trained.get((task.name, i))
        both = zip(before, (pair.input, pair.output), strict=True) if before else ()
        if any(a is None or b is None or not np.array_equal(a, b) for a, b in both):
            return False
    return True


if __name__ == "__main__":
    typer.run(main)
