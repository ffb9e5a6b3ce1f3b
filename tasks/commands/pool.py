"""`arc pool A B ...`: pools the votes of several seeds or checkpoints, as an evaluation of its own.

A, B are folders: worktrees with data/predictions, or kept results as `arc import` takes them; or predictions files in
either. The views of all vote together, under the vote rule of the first. The result is a folder that `arc compare`
reads (data/scores) and `arc import` publishes: predictions, score, submission, and the sum of the trainings' costs.
"""

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer
import yaml

from model.config.evaluation import CheckpointName, Score, Votes
from model.puzzles.grids import Grid
from model.scoring.scores import Key
from model.scoring.wording import caveats, interval, marks, percent
from model.storage import sealed
from model.storage.atomic import write_json
from model.storage.digests import digest_text
from tasks import score
from tasks.commands.import_results import evaluation_tasks, fetch_of, filled, resolved
from tasks.common import params, paths
from tasks.common.documents import read_json
from tasks.common.presets import ConfigurationError
from tasks.common.stage import StageError, stage
from tasks.files import cost, predictions
from tasks.files.submission import submission, write
from tasks.files.tables import read_pairs, read_solutions

KEPT_EXPERIMENT = "experiment.yaml"
"""Whose presence in a folder tells a kept result from a worktree."""
MOST_VIEWS = np.iinfo(np.int16).max


class Member(NamedTuple):
    """One predictions file with what belongs to it."""

    path: Path
    checkpoint: str
    frame: pd.DataFrame
    source: predictions.Source
    values: Mapping[str, Any]
    """Its experiment."""
    selection: Mapping[str, Any]
    cost: Mapping[str, Any] | None
    """`seconds` and `device` of its training; None if unknown."""
    solutions: Mapping[str, Sequence[Grid]]
    inputs: Mapping[Key, Grid]
    """The test inputs."""

    @property
    def training(self) -> tuple[Any, ...]:
        """What is equal for checkpoints of one training; a title leaves out what differs in many parameters."""
        trained = json.dumps(self.values.get("train"), sort_keys=True)
        return self.source.experiment, str(self.values.get("title")), trained, self.source.seed, self.source.data


@stage("pool")
def main(
    names: Annotated[list[str], typer.Argument(help="Worktrees, kept results, or predictions files in either")],
    to: Annotated[Path, typer.Option(help="A new folder for the result")],
    checkpoint: Annotated[CheckpointName, typer.Option(help="Of the folders")] = "best",
    evaluation: Annotated[str, typer.Option(help="Of the folders")] = "votes",
) -> None:
    """Pool the votes of several trainings or checkpoints, with their costs added up."""
    if to.exists():
        raise StageError(f"{to} exists; name a new folder with --to")
    if not to.absolute().parent.is_dir():
        raise StageError(f"{to} cannot be written: the folder {to.absolute().parent} does not exist")
    members = [read(name, checkpoint, evaluation) for name in names]
    check(members)
    with tempfile.TemporaryDirectory(dir=to.absolute().parent, prefix=".pool-") as scratch:
        result = pool(members, Path(scratch) / "result")
        (Path(scratch) / "result").rename(to)
    seconds = result["cost"]["seconds"]
    print(
        f"pool of {len(members)}: pass@2 {percent(result['pass_at_2'])} % [{interval(result['ci95'])}], "
        f"{result['grids_solved']} of {result['n_grids']} grids, {result['n_tasks']} tasks, "
        f"{'cost unknown' if seconds is None else f'{seconds / 60:.1f} minutes of training'}"
        + "".join(f"; {caveat}" for caveat in caveats(result))
    )
    usual = {"--checkpoint": "best", "--evaluation": "votes"}
    pooled = {"--checkpoint": result["checkpoint"], "--evaluation": result["source"]["evaluation_name"]}
    options = "".join(f" {name} {value}" for name, value in pooled.items() if value != usual[name])
    print(f"next: arc compare {to} OTHER{options}, arc import {to}")


def read(name: str, checkpoint: str, evaluation: str) -> Member:
    """The predictions named by `name`. Raises StageError."""
    path = Path(name).absolute()
    if path.is_dir():
        place = path if (path / KEPT_EXPERIMENT).is_file() else path / paths.PREDICTIONS
        path = place / f"{checkpoint}-{evaluation}.parquet"
    if path.suffix != ".parquet" or not path.is_file():
        others = ", ".join(sorted(other.stem for other in path.parent.glob("*-*.parquet")))
        advice = (
            f"its folder has {others}: give --checkpoint and --evaluation"
            if others
            else ("give a worktree, a kept result, or a parquet file there")
        )
        raise StageError(f"{name!r} names no predictions: {path} is missing; {advice}")
    place = path.parent
    kept = (place / KEPT_EXPERIMENT).is_file()
    root = place if kept else place.parent.parent
    settings = place / KEPT_EXPERIMENT if kept else root / paths.EXPERIMENT
    if not settings.is_file():
        raise StageError(f"{path} has no {settings} beside it, which says its tasks and costs")
    frame, source = predictions.read(path)
    if not source.evaluation.voting:
        raise StageError(f"{path} holds no votes: {source.evaluation_name} answers by {source.evaluation.answers.by!r}")
    try:
        values = resolved(settings) if kept else params.read(settings)
    except ConfigurationError as error:
        raise StageError(f"{settings} is no experiment: {error}") from error
    stem = path.stem.partition("-")[0]
    if kept:
        if source.evaluation.subset != "evaluation":
            raise StageError(f"{path} is of {source.evaluation.subset} tasks; of kept results only evaluation tasks")
        inputs, solutions = evaluation_tasks(values)
        spent = read_json(place / "cost.json") if (place / "cost.json").is_file() else None
        selection = read_json(place / "selection.json")
    else:
        with contextlib.chdir(root):
            solutions = read_solutions(source.evaluation.subset)
            inputs = {key: grid for key, (grid, _) in read_pairs(source.evaluation.subset).items()}
            selection = read_json(paths.SELECTION)
            spent = cost.read(params.check(values, str(settings)))
    solutions = score.limited(solutions, source)
    score.check(path, frame, source, solutions)
    return Member(path, stem, frame, source, values, selection, spent, solutions, inputs)


def check(members: Sequence[Member]) -> None:
    """Refuse predictions that cannot vote together. Raises StageError."""
    if len(members) < 2:
        raise StageError("a pool needs two or more predictions")
    first = members[0]
    for i, member in enumerate(members):
        for other in members[:i]:
            if other.source.checkpoint == member.source.checkpoint:
                raise StageError(f"{other.path} and {member.path} are of one checkpoint: its votes would count twice")
            named = (other.source.experiment, other.source.seed) == (member.source.experiment, member.source.seed)
            if named and other.source.data != member.source.data:
                raise StageError(
                    f"{other.path} and {member.path} are of {member.source.experiment} seed {member.source.seed}, but "
                    f"of other data ({other.source.data[:8]}, {member.source.data[:8]}); make one of them again"
                )
        tasks, others = _contents(first), _contents(member)
        if tasks != others:
            raise StageError(
                f"{first.path} and {member.path} are over other test inputs or solutions ({len(tasks)} and "
                f"{len(others)} tasks, {len(set(tasks) & set(others))} of the same name), and cannot be pooled"
            )
        differing = _differing(_settings(first), _settings(member))
        differing += _differing(_score(first).model_dump(), _score(member).model_dump())
        if differing:
            raise StageError(
                f"{first.path} and {member.path} differ in {', '.join(differing)}; only their numbers of views may"
            )
    if _score(first).views:
        raise StageError(f"score.views of {first.path} is {_score(first).views}; a pool needs 0, that all views vote")
    views = sum(member.source.evaluation.views for member in members)
    if views > MOST_VIEWS:
        raise StageError(f"{views} views are too many to pool; at most {MOST_VIEWS}")
    leaks = max(member.source.leaks for member in members)
    if leaks and not _score(first).allow_leaks:
        raise StageError(f"{leaks} evaluated pairs were trained on; score.allow_leaks of the first does not allow it")


def pool(members: Sequence[Member], to: Path) -> dict[str, Any]:
    """Write the folder of the pool; its score."""
    first = members[0]
    best = any(member.checkpoint == "best" for member in members)
    checkpoint = "best" if best else first.checkpoint  # So that what holds of a selected checkpoint is said.
    frame, source = joined(members)
    selection: dict[str, Any] = {
        "on_the_reported_set": any(_selected(member, "selected_on_the_reported_set") for member in members),
        "criterion": "validation-loss" if any(_selected(m, "selected_by_loss") for m in members) else "pass-at-2",
        "candidates": [],
    }
    result, attempts = score.scored(frame, source, first.solutions, first.inputs, _score(first))
    spent = _spent(members)
    result |= {"checkpoint": checkpoint, **marks(checkpoint, selection, fetch_of(first.values))}
    result |= {"pool": [_described(member) for member in members], "cost": spent}
    name = f"{checkpoint}-{first.source.evaluation_name}"
    (to / paths.SCORES).mkdir(parents=True)
    rows = frame.drop(columns="grid").astype(object).where(frame.drop(columns="grid").notna(), None)
    predictions.write(to / f"{name}.parquet", rows.to_dict("records"), source)
    sealed.write(to / paths.score(checkpoint, first.source.evaluation_name), result)
    tests = {task: len(grids) for task, grids in first.solutions.items()}
    write(to / paths.submission(checkpoint, first.source.evaluation_name), submission(tests, attempts))
    of = ", ".join(f"{m['experiment']} seed {m['seed']} {m['checkpoint']}" for m in result["pool"])
    title = f"{first.values['title']} pool of {len(members)}"
    (to / KEPT_EXPERIMENT).write_text(yaml.safe_dump({**first.values, "title": title}, sort_keys=False))
    (to / "README.md").write_text(f"Votes pooled of {of}.\n")
    write_json(to / "pool.json", result["pool"])
    write_json(to / "selection.json", selection)
    write_json(to / "history.json", [])
    if spent["seconds"] is not None:
        write_json(to / "cost.json", spent)
    return result


def joined(members: Sequence[Member]) -> tuple[pd.DataFrame, predictions.Source]:
    """All answers, their views numbered on from one member to the next, and the source that describes them.

    Likelihoods are left out unless every member has them, asked alike.
    """
    frames, failures, views = [], [], 0
    for member in members:
        frames.append(member.frame.assign(view=member.frame["view"].astype(np.int64) + views))
        failures += [(task, test, view + views, a, why) for task, test, view, a, why in member.source.failures]
        views += member.source.evaluation.views
    sources = [member.source for member in members]
    first, data = sources[0].evaluation, sorted({source.data for source in sources})
    ranking = first.ranking if all(source.evaluation.ranking == first.ranking for source in sources) else None
    if ranking is None:
        frames = [frame.assign(log_likelihoods=None) for frame in frames]
    return pd.concat(frames, ignore_index=True), sources[0].model_copy(
        update={
            "checkpoint": digest_text(" ".join(source.checkpoint for source in sources)),
            "step": max(source.step for source in sources),
            "weights": ", ".join(sorted({source.weights for source in sources})),
            "evaluation": first.model_copy(update={"answers": Votes(by="votes", views=views), "ranking": ranking}),
            "data": data[0] if len(data) == 1 else digest_text(" ".join(data)),
            "leaks": max(source.leaks for source in sources),
            "failures": tuple(failures),
        }
    )


def _spent(members: Sequence[Member]) -> dict[str, Any]:
    """Seconds of all trainings, each counted once, and their devices; None where one is unknown."""
    trainings = {member.training: member.cost for member in members}
    known_costs = [spent for spent in trainings.values() if spent and "seconds" in spent]
    complete = len(known_costs) == len(trainings)
    return {
        "seconds": sum(spent["seconds"] for spent in known_costs) if complete else None,
        "device": ", ".join(sorted({str(spent["device"]) for spent in known_costs})) or None,
    }


def _described(member: Member) -> dict[str, Any]:
    source = member.source
    return {
        "experiment": source.experiment,
        "seed": source.seed,
        "checkpoint": member.checkpoint,
        "digest": source.checkpoint,
        "data": source.data,
        "views": source.evaluation.views,
        "seconds": (member.cost or {}).get("seconds"),
    }


def _selected(member: Member, mark: str) -> bool:
    return bool(marks(member.checkpoint, member.selection, fetch_of(member.values))[mark])


def _contents(member: Member) -> dict[str, Any]:
    """The test inputs and solutions by task, comparable."""
    return {
        task: [(grid.tolist(), member.inputs[task, i].tolist()) for i, grid in enumerate(grids)]
        for task, grids in member.solutions.items()
    }


def _settings(member: Member) -> dict[str, Any]:
    """What has to be equal: likelihoods only where the vote rule reads them."""
    ignored = {"answers"} if _score(member).rule == "likelihood" else {"answers", "ranking"}
    return member.source.evaluation.model_dump(exclude=ignored)


def _score(member: Member) -> Score:
    return Score.model_validate(filled("score", member.values))


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [f"{name} ({a[name]}, {b[name]})" for name in a if a[name] != b[name]]


if __name__ == "__main__":
    typer.run(main)
