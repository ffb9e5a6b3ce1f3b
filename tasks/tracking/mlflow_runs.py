"""Finds a published result in MLflow, and publishes one completely and once. MLflow is imported late: it takes 2 s."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks.common.stage import StageError
from tasks.tracking import best_runs, promotion, view
from tasks.tracking import models as models_of
from tasks.tracking.models import Model
from tasks.tracking.store import SETTINGS, Store, create, locked, relocate

KEY = "arc.key"
"""Tag of every run and model of a result: the digest of its content."""
KIND = "arc.run"
"""Tag: 'experiment' of the run of a training, 'evaluation' of those below it, 'live' of a training's while it runs."""
LIVE = "arc.live"
"""Tag of the run of a training while it runs: the key of the training."""


@dataclass(frozen=True)
class Point:
    """A value of a metric after `step` updates."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Data:
    """The prepared data. `digest` is short, since MLflow's pages show it; `source` and `profile` are JSON."""

    name: str
    digest: str
    source: str
    profile: str


@dataclass(frozen=True)
class Record:
    """Contents of a run; `artifacts` maps names in the run to local files: parquet under their own names, or text."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    artifacts: Mapping[str, Path]
    times: tuple[float, float] | None = None
    """Start and end in Unix time; None for those of the publication."""


@dataclass(frozen=True)
class Result:
    """An experiment: the run of the training, its models by checkpoint, and the evaluations with their checkpoints.

    There are no models where the weights were not kept.
    """

    experiment: str
    training: Record
    models: Mapping[str, Model]
    evaluations: Sequence[tuple[str, Record]]
    data: Data
    training_key: str = ""
    """Of the training, whose run while it ran this result replaces."""


def run_of(store: Store, key: str) -> tuple[str, str] | None:
    """Ids of the MLflow experiment and of the complete run of the result `key`; None if the store lacks it."""
    if store.empty:
        return None
    with mlflow_errors(store):
        runs = _search(connect(store), f"tags.`{KEY}` = '{key}' and tags.`{KIND}` = 'experiment'")
    finished = [run.info for run in runs if run.info.status == "FINISHED"]
    return (finished[0].experiment_id, finished[0].run_id) if finished else None


def trainings(store: Store) -> list[Any]:
    """The runs of all trainings: finished results, and those that run or ended without a result."""
    with mlflow_errors(store):
        return _search(connect(store), f"tags.`{KIND}` != 'evaluation'")


def set_branch(store: Store, key: str, branch: str) -> None:
    """Say on the run of the result `key` which git branch has it, and how to restore it from there."""
    ids = run_of(store, key)
    if not ids:
        return
    with mlflow_errors(store):
        client = connect(store)
        note = client.get_run(ids[1]).data.tags.get("mlflow.note.content", "")
        restore = f"Restore: `git switch {branch} && dvc checkout`"
        client.set_tag(ids[1], "arc.branch", branch)
        if restore not in note:
            client.set_tag(ids[1], "mlflow.note.content", f"{note}\n\n{restore}")


def holds(store: Store, key: str) -> bool:
    """Whether the store contains the complete result `key`."""
    return run_of(store, key) is not None


def ever_held(store: Store, key: str) -> bool:
    """Whether the store contains the complete result `key`, or contained it before somebody deleted it."""
    if store.empty:
        return False
    with mlflow_errors(store):
        from mlflow.entities import ViewType

        client = connect(store)
        query = f"tags.`{KEY}` = '{key}' and tags.`{KIND}` = 'experiment' and attributes.status = 'FINISHED'"
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return bool(client.search_runs(experiments, query, run_view_type=ViewType.ALL, max_results=1))


def publish(store: Store, key: str, read: Callable[[], Result]) -> bool:
    """Publish the result `key`; returns False if the store contains it. `read` is called only if it is needed.

    One process at a time writes to a store. The remains of a killed publication are removed; the run of the training
    becomes FINISHED only after everything else is written.
    """
    with locked(store):
        if holds(store, key):
            return False
        result = read()
        create(store)
        with mlflow_errors(store):
            client = connect(store)
            _discard(client, key)
            if store.database:
                # Nobody else publishes while we hold the lock: a run that is still RUNNING was killed.
                _terminate(client, f"tags.`{KEY}` != ''", "KILLED")
            try:
                experiment = experiment_id(client, store, result.experiment)
                _write(client, experiment, key, result)
            except BaseException as error:
                _terminate(client, f"tags.`{KEY}` = '{key}'", "FAILED" if isinstance(error, Exception) else "KILLED")
                raise
            if result.training_key:
                for run in _search(client, f"tags.`{LIVE}` = '{result.training_key}'"):
                    client.delete_run(run.info.run_id)
            names = [result.training.tags.get(f"arc.{part}", "") for part in ("version", "dataset")]
            if all(names):
                best_runs.mark(client, experiment, *names)
            for name in {model.registered for model in result.models.values()}:
                print(promotion.consider(client, name, key, KEY))
    return True


def connect(store: Store) -> Any:
    """MLflow's client of the store."""
    os.environ.update(SETTINGS)
    relocate(store)
    import mlflow

    mlflow.set_tracking_uri(store.uri)
    return mlflow.MlflowClient()


def _search(client: Any, filter_string: str) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs, token = [], None
    while token != "":
        page = client.search_runs(experiments, filter_string, max_results=1000, page_token=token)
        runs += page
        token = page.token or ""
    return runs


def _discard(client: Any, key: str) -> None:
    """Delete the unfinished runs of this result, and its models: MLflow keeps them when their run is deleted."""
    for run in _search(client, f"tags.`{KEY}` = '{key}'"):
        client.delete_run(run.info.run_id)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for model in client.search_logged_models(experiments, f"tags.`{KEY}` = '{key}'"):
        client.delete_logged_model(model.model_id)
    for version in client.search_model_versions(f"tags.`{KEY}` = '{key}'"):
        client.delete_model_version(version.name, version.version)


def _terminate(client: Any, filter_string: str, status: str) -> None:
    for run in _search(client, f"{filter_string} and attributes.status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, status)


def experiment_id(client: Any, store: Store, name: str) -> str:
    """Id of the MLflow experiment, which is created if it is missing, with its saved views.

    Raises StageError if it was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = str(store.artifacts / quote(name, safe="")) if store.artifacts else None
        # Without this tag the page opens as one for language models.
        kind = {"mlflow.experimentKind": "custom_model_development", **view.tags()}
        return str(client.create_experiment(name, artifact_location=location, tags=kind))
    if experiment.lifecycle_stage == "deleted":
        raise StageError(
            f"the MLflow experiment {name!r} of {store.uri} is deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}`, or choose another name in publish.experiment"
        )
    if not view.tags().items() <= experiment.tags.items():
        _complete(client, experiment.experiment_id)
        for name, value in view.tags().items():
            client.set_experiment_tag(experiment.experiment_id, name, value)
    return str(experiment.experiment_id)


def _complete(client: Any, experiment: str) -> None:
    """Log what the views sort by, and set what they filter by, for runs that are older than these."""
    for run in client.search_runs([experiment], f"tags.`{KIND}` = 'experiment'", max_results=50_000):
        evaluation = run.data.tags.get(view.HEADLINE, "").partition(" ")[0]
        score = run.data.metrics.get(f"pass_at_2/{evaluation}")
        if score is not None and view.METRIC not in run.data.metrics:
            client.log_metric(run.info.run_id, view.METRIC, score, step=0)
    best_runs.mark_all(client, experiment)


def _write(client: Any, experiment: str, key: str, result: Result) -> None:
    from mlflow import entities

    data = entities.Dataset(
        result.data.name, result.data.digest, "local", result.data.source, None, result.data.profile
    )

    def describe(run: str, record: Record, context: str, model: str | None = None) -> None:
        now = int(time.time() * 1000)
        of = (model, data.name, data.digest)
        params = [entities.Param(*param) for param in record.params.items()]
        points = [entities.Metric(p.metric, p.value, now, p.step, *of) for p in record.points]
        # One call may log at most 100 parameters, and 1000 entities in all.
        for i in range(0, len(params), 100):
            client.log_batch(run, params=params[i : i + 100])
        for i in range(0, len(points), 1000):
            client.log_batch(run, metrics=points[i : i + 1000])
        inputs = [entities.LoggedModelInput(model)] if model else []
        usage = [entities.InputTag("mlflow.data.context", context)]
        client.log_inputs(run, [entities.DatasetInput(data, usage)], inputs)
        for name, file in record.artifacts.items():
            if file.suffix == ".parquet":
                client.log_artifact(run, str(file))
            else:
                client.log_text(run, file.read_text(), name)

    with _run(client, experiment, result.training, {KEY: key, KIND: "experiment"}) as parent:
        describe(parent, result.training, "training")
        models = {
            checkpoint: models_of.log(client, experiment, parent, model, {KEY: key})
            for checkpoint, model in result.models.items()
        }
        outputs = [entities.LoggedModelOutput(models[name], model.step) for name, model in result.models.items()]
        if outputs:
            client.log_outputs(parent, outputs)
        for checkpoint, record in result.evaluations:
            tags = {KEY: key, KIND: "evaluation", "mlflow.parentRunId": parent}
            with _run(client, experiment, record, tags) as child:
                describe(child, record, "evaluation", models.get(checkpoint))
        for checkpoint, model in result.models.items():
            models_of.register(client, model, models[checkpoint], parent, {KEY: key})


@contextlib.contextmanager
def _run(client: Any, experiment: str, record: Record, tags: dict[str, str]) -> Iterator[str]:
    """A run that becomes FINISHED when the block ends without an error."""
    start, end = (int(1000 * time) for time in record.times) if record.times else (None, None)
    tags = {**record.tags, **tags}
    run = client.create_run(experiment, run_name=record.name, start_time=start, tags=tags).info.run_id
    yield run
    client.set_terminated(run, "FINISHED", end)


@contextlib.contextmanager
def mlflow_errors(store: Store) -> Iterator[None]:
    """Turn an error of MLflow, such as of a server that does not answer, into a StageError that names the store."""
    os.environ.update(SETTINGS)
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        message = str(error).splitlines()[0]
        if "file is not a database" in message:
            raise StageError(f"{store.database} is no MLflow store: {message}; move it away, or repair it") from error
        raise StageError(f"MLflow at {store.uri}: {message}") from error
