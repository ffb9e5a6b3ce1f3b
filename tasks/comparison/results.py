"""Finds the scores to compare: a score file, the folder of a worktree or clone, or a name in MLflow."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.storage import sealed
from tasks.common import paths
from tasks.common.documents import DocumentError, parse_json, read_json
from tasks.common.params import check, flatten, read
from tasks.common.presets import LAYERS, ConfigurationError
from tasks.common.stage import StageError
from tasks.files import cost
from tasks.tracking import records
from tasks.tracking.mlflow_runs import KEY, KIND
from tasks.tracking.store import SETTINGS, configured_store

_KEYS = {"tasks", "source", "checkpoint", "selected_on_the_reported_set", "pass_at_2"}
# Parameters that change no score. Evaluations other than the compared one are left out too.
_IRRELEVANT = ("title", *LAYERS, "seed")
_IRRELEVANT_SECTIONS = (
    *("predict.", "report.", "publish.", "watch."),
    *("train.log_every", "train.save_seconds", "train.validation.", "train.evaluate_candidates"),
)


@dataclass(frozen=True)
class Result:
    """One score of one seed, with its parameters, training time and code as far as they are known."""

    where: str
    """The argument that named it."""
    score: Mapping[str, Any]
    parameters: Mapping[str, str]
    """By dotted key (train.optimizer.learning_rate), without those that change no score; {} if unknown."""
    seconds: float | None
    """Seconds of training, None if unknown."""
    device: str | None
    code: str | None
    """Commit, with '+' if the code differed from it."""

    @property
    def experiment(self) -> str:
        """VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET; of how many predictions, if they were pooled."""
        name, pooled = str(self.score["source"]["experiment"]), len(self.score.get("pool", ()))
        return f"{name} (pool of {pooled})" if pooled else name

    @property
    def seed(self) -> int:
        """Of the experiment."""
        return int(self.score["source"]["seed"])


def find(name: str, checkpoint: str, evaluation: str) -> list[Result]:
    """The results named by `name`: one for a path, one per seed and setting for an experiment in MLflow.

    `name` is a score file, a folder with data/scores, or VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET; @ and the first
    characters of an `arc.key` after it select one result. Raises StageError.
    """
    path = Path(name)
    if path.is_file():
        return [_from_file(path, name)]
    if path.is_dir():
        file = path / paths.score(checkpoint, evaluation)
        if not file.is_file():
            raise StageError(f"{file} is missing; {_instead(path)}")
        return [_from_file(file, name)]
    if re.fullmatch(r"[\w.+-]+(/[\w.+-]+){2}(@\w+)?", name) and path.suffix != ".json":
        return _from_mlflow(name, checkpoint, evaluation)
    raise StageError(
        f"{name!r} is no score file, no folder and no experiment; give a path such as data/scores/best-votes.json, a "
        "worktree, or a name in MLflow such as v3/smol/aa1"
    )


def _instead(folder: Path) -> str:
    """What a folder without the score has, and what to do."""
    if available := sorted(file.stem for file in (folder / paths.SCORES).glob("*.json")):
        return f"{folder} has {', '.join(available)}: choose with --checkpoint and --evaluation"
    if (folder / paths.EXPERIMENT.name).is_file():
        return (
            f"{folder} is a kept result, without scores: run `arc import {folder}` and give the experiment's name in "
            "MLflow, such as v3/smol/aa1"
        )
    return f"{folder} has no scores: run `dvc repro` there"


def _from_file(path: Path, name: str) -> Result:
    try:
        score = sealed.check(read_json(path), str(path))
    except (DocumentError, sealed.SealError) as error:
        raise StageError(f"{error}; run the stage score again") from error
    score = _checked(score, str(path))
    # Beside a score in data/scores are its parameters and its cost.
    root = path.absolute().parent.parent.parent
    if path.absolute().parent != root / paths.SCORES or not (root / paths.EXPERIMENT).is_file():
        costs = score.get("cost") or {"seconds": None, "device": None}  # A pool says it itself.
        return Result(name, score, {}, costs["seconds"], costs["device"], None)
    try:
        values = read(root / paths.EXPERIMENT)
        beside = records.named(values), values["seed"]
    except (ConfigurationError, KeyError) as error:
        raise StageError(f"{root / paths.EXPERIMENT} is no experiment ({error}); run `dvc repro` in {root}") from error
    if beside != (score["source"]["experiment"], score["source"]["seed"]):
        raise StageError(
            f"{path} is of {score['source']['experiment']} seed {score['source']['seed']}, but "
            f"{root / paths.EXPERIMENT} is of {beside[0]} seed {beside[1]}; run `dvc repro` in {root}"
        )
    training_cost = None
    # Parameters of another commit may not validate here: the score still compares, without its cost.
    with contextlib.suppress(FileNotFoundError, ConfigurationError), contextlib.chdir(root):
        training_cost = cost.read(check(values, str(paths.EXPERIMENT)))
    seconds, device = (training_cost["seconds"], training_cost["device"]) if training_cost else (None, None)
    return Result(name, score, _relevant(flatten(values), score), seconds, device, None)


def _from_mlflow(name: str, checkpoint: str, evaluation: str) -> list[Result]:
    experiment, _, key = name.partition("@")
    store = configured_store()
    if store.empty:
        raise StageError(f"{name}: no such file exists, and the MLflow store {store.uri} is empty; publish it first")
    os.environ.update(SETTINGS, MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.set_tracking_uri(store.uri)
        client = mlflow.MlflowClient()
        parents = [
            run
            for run in finished_runs(client, f"tags.`arc.experiment` = '{experiment}' and tags.`{KIND}` = 'experiment'")
            if run.data.tags[KEY].startswith(key)
        ]
        if not parents:
            names = {run.data.tags["arc.experiment"] for run in finished_runs(client, f"tags.`{KIND}` = 'experiment'")}
            known = ", ".join(sorted(names)) or "no experiments: `arc import` publishes the kept results"
            raise StageError(f"{name} is neither a path nor in {store.uri}; there are {known}")
        results = [_result(client, name, run, checkpoint, evaluation) for run in parents]
    except MlflowException as error:
        raise StageError(f"MLflow at {store.uri}: {error}") from error
    return sorted(results, key=lambda result: result.seed)


def finished_runs(client: Any, filter_string: str) -> Iterator[Any]:
    """Finished runs, the newest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token = None
    while token != "":
        page = client.search_runs(
            experiments, f"{filter_string} and attributes.status = 'FINISHED'", max_results=1000, page_token=token
        )
        yield from page
        token = page.token or ""


def _result(client: Any, name: str, parent: Any, checkpoint: str, evaluation: str) -> Result:
    children = list(finished_runs(client, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"))
    by_name = {(run.data.tags["arc.checkpoint"], run.data.tags["arc.evaluation"]): run for run in children}
    chosen = by_name.get((checkpoint, evaluation))
    if chosen is None:
        available = ", ".join(sorted("-".join(pair) for pair in by_name))
        raise StageError(f"{name} has no {checkpoint}-{evaluation} in MLflow; it has {available or 'no evaluation'}")
    import mlflow

    text = mlflow.artifacts.load_text(f"runs:/{chosen.info.run_id}/score.json")
    where = f"score.json of MLflow's run {chosen.info.run_id}"
    try:
        score = _checked(sealed.check(parse_json(text.encode(), where), where), where)
    except sealed.SealError as error:
        raise StageError(f"{error}; publish the experiment again") from error
    tags, metrics = parent.data.tags, parent.data.metrics
    commit = tags.get("mlflow.source.git.commit")
    return Result(
        where=name,
        score=score,
        parameters=_relevant(parent.data.params, score),
        seconds=metrics.get("cost/training_seconds"),
        device=tags.get("arc.device"),
        code=commit[:9] + ("+" if tags.get("mlflow.source.git.dirty") == "true" else "") if commit else None,
    )


def _checked(score: Any, where: str) -> dict[str, Any]:
    if not isinstance(score, dict) or not score.keys() >= _KEYS or not score["tasks"]:
        raise StageError(f"{where} is no score: it lacks {sorted(_KEYS - set(score or ()))}; run the stage score again")
    return score


def _relevant(parameters: Mapping[str, str], score: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that affect this score, with those of its evaluation renamed to `evaluation.`."""
    chosen = f"evaluations.{score['source']['evaluation_name']}."
    kept: dict[str, str] = {}
    for key, value in parameters.items():
        if key.startswith(chosen):
            kept[f"evaluation.{key.removeprefix(chosen)}"] = value
        elif key not in _IRRELEVANT and not key.startswith(("evaluations.", *_IRRELEVANT_SECTIONS)):
            kept[key] = value
    if score["checkpoint"] != "best":
        kept = {key: value for key, value in kept.items() if not key.startswith("select.")}
    return kept | {"checkpoint": str(score["checkpoint"])}


def group_seeds(results: Sequence[Result], apart: bool) -> tuple[list[list[Result]], list[str]]:
    """Group results that differ only in the seed, in the order given; and notes on what was left out.

    A repeated seed is not a further seed: of one name in MLflow the newest counts; different paths form own groups.
    """
    groups: dict[Any, list[Result]] = {}
    notes = []
    for result in results:
        evaluation = json.dumps(result.score["source"]["evaluation"], sort_keys=True)
        # Pools may share trainings, and so are no seeds of each other.
        pooled = json.dumps(result.score.get("pool"), sort_keys=True)
        parameters = tuple(sorted(result.parameters.items()))
        setting = (result.experiment, parameters, result.score["checkpoint"], evaluation, pooled)
        alone = result.where if not result.parameters else None
        group = groups.setdefault((setting, alone, result.seed if apart else None), [])
        same = next((other for other in group if other.seed == result.seed), None)
        if same is not None and same.where != result.where:
            group = groups.setdefault((setting, result.where, result.seed), [])
            same = next(iter(group), None)
        if same is None:
            group.append(result)
        elif same.score["tasks"] != result.score["tasks"]:
            notes.append(f"{result.where} has several results of seed {result.seed}; the newest counts")
    return list(groups.values()), notes
