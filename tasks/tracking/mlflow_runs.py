"""MLflow: whether a result is in the store, and putting it there, whole and once.

MLflow is imported only where something is written (2 s); asking a SQLite store takes the standard library.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks.common.stage import StageError
from tasks.tracking.store import SETTINGS, Store, create, locked

KEY = "arc.key"
"""Tag of every run and model of a result: the digest of its content."""
KIND = "arc.run"
"""Tag: 'experiment' of the run of a training, 'evaluation' of those below it."""

COMPLETE = """
    select experiment_id, runs.run_uuid from runs join experiments using (experiment_id)
    join tags result on result.run_uuid = runs.run_uuid and result.key = ? and result.value = ?
    join tags kind on kind.run_uuid = runs.run_uuid and kind.key = ? and kind.value = 'experiment'
    where runs.status = 'FINISHED' and runs.lifecycle_stage = 'active' and experiments.lifecycle_stage = 'active'
"""


@dataclass(frozen=True)
class Point:
    """A value of a metric after `step` updates."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class Model:
    """A checkpoint whose bytes stay with DVC."""

    name: str
    step: int
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Data:
    """What was trained on and answered. `digest` is short, since pages show it; source and profile are JSON."""

    name: str
    digest: str
    source: str
    profile: str


@dataclass(frozen=True)
class Record:
    """What a run is to hold; `artifacts` maps names in the run to text files here."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    artifacts: Mapping[str, Path]


@dataclass(frozen=True)
class Result:
    """An experiment: the run of the training, its models by checkpoint, and the evaluations with their checkpoints."""

    experiment: str
    training: Record
    models: Mapping[str, Model]
    evaluations: Sequence[tuple[str, Record]]
    data: Data


def run_of(place: Store, key: str) -> tuple[str, str] | None:
    """Ids of the MLflow experiment and run of the complete result `key`; None where the store lacks it."""
    if place.empty:
        return None
    if place.database is None:
        with _explained(place):
            runs = _runs(connect(place), f"tags.`{KEY}` = '{key}'")
        found = [run.info for run in runs if run.data.tags[KIND] == "experiment" and run.info.status == "FINISHED"]
        return (found[0].experiment_id, found[0].run_id) if found else None
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(place.database))}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute(COMPLETE, (KEY, key, KIND)).fetchone()
        except sqlite3.DatabaseError as error:
            raise StageError(f"{place.database} is no MLflow store: {error}; move it away, or repair it") from error
    return (str(row[0]), str(row[1])) if row else None


def holds(place: Store, key: str) -> bool:
    """Whether the complete result `key` is in the store."""
    return run_of(place, key) is not None


def publish(place: Store, key: str, read: Callable[[], Result]) -> bool:
    """Put the result `key` there; False if it was there already. `read` is called only when it is needed.

    One process at a time writes to a store. What a killed publication left is removed, and the run of the training
    reads FINISHED only when everything is in.
    """
    with locked(place):
        if holds(place, key):
            return False
        result = read()
        create(place)
        with _explained(place):
            client = connect(place)
            _discard(client, key)
            if place.database:
                # Under its lock nobody else publishes: what still reads RUNNING was killed.
                _end(client, f"tags.`{KEY}` != ''", "KILLED")
            try:
                _write(client, experiment_id(client, place, result.experiment), key, result)
            except BaseException as error:
                _end(client, f"tags.`{KEY}` = '{key}'", "FAILED" if isinstance(error, Exception) else "KILLED")
                raise
    return True


def connect(place: Store) -> Any:
    """MLflow's client of the store."""
    os.environ.update(SETTINGS)
    import mlflow

    mlflow.set_tracking_uri(place.uri)
    return mlflow.MlflowClient()


def _runs(client: Any, wanted: str) -> list[Any]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found, token = [], None
    while token != "":
        page = client.search_runs(experiments, wanted, max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    return found


def _discard(client: Any, key: str) -> None:
    """Delete the unfinished runs of this result, and its models, which MLflow keeps when their run is deleted."""
    for run in _runs(client, f"tags.`{KEY}` = '{key}'"):
        client.delete_run(run.info.run_id)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for model in client.search_logged_models(experiments, f"tags.`{KEY}` = '{key}'"):
        client.delete_logged_model(model.model_id)


def _end(client: Any, wanted: str, status: str) -> None:
    for run in _runs(client, f"{wanted} and attributes.status = 'RUNNING'"):
        client.set_terminated(run.info.run_id, status)


def experiment_id(client: Any, place: Store, name: str) -> str:
    """Id of the MLflow experiment, which is made if there is none. Raises StageError if it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = str(place.artifacts / quote(name, safe="")) if place.artifacts else None
        # Else its page opens with what MLflow offers for language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=kind))
    if found.lifecycle_stage == "deleted":
        raise StageError(
            f"the MLflow experiment {name!r} of {place.uri} is deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}`, or choose another name in publish.experiment"
        )
    return str(found.experiment_id)


def _write(client: Any, experiment: str, key: str, result: Result) -> None:
    import mlflow
    from mlflow import entities

    data = entities.Dataset(
        result.data.name, result.data.digest, "local", result.data.source, None, result.data.profile
    )

    def describe(run: str, record: Record, context: str, model: str | None = None) -> None:
        now = int(time.time() * 1000)
        of = (model, data.name, data.digest)
        params = [entities.Param(*param) for param in record.params.items()]
        points = [entities.Metric(p.metric, p.value, now, p.step, *of) for p in record.points]
        # The most that one call may hold is 100 parameters, and 1000 things in all.
        for i in range(0, len(params), 100):
            client.log_batch(run, params=params[i : i + 100])
        for i in range(0, len(points), 1000):
            client.log_batch(run, metrics=points[i : i + 1000])
        inputs = [entities.LoggedModelInput(model)] if model else []
        usage = [entities.InputTag("mlflow.data.context", context)]
        client.log_inputs(run, [entities.DatasetInput(data, usage)], inputs)
        for name, file in record.artifacts.items():
            client.log_text(run, file.read_text(), name)

    with _run(client, experiment, result.training, {KEY: key, KIND: "experiment"}) as parent:
        describe(parent, result.training, "training")
        models = {
            checkpoint: mlflow.create_external_model(
                name=model.name,
                source_run_id=parent,
                experiment_id=experiment,
                model_type="checkpoint",
                params=dict(model.params),
                tags={**model.tags, KEY: key},
            ).model_id
            for checkpoint, model in result.models.items()
        }
        outputs = [entities.LoggedModelOutput(models[name], model.step) for name, model in result.models.items()]
        client.log_outputs(parent, outputs)
        for checkpoint, record in result.evaluations:
            tags = {KEY: key, KIND: "evaluation", "mlflow.parentRunId": parent}
            with _run(client, experiment, record, tags) as child:
                describe(child, record, "evaluation", models[checkpoint])


@contextlib.contextmanager
def _run(client: Any, experiment: str, record: Record, tags: dict[str, str]) -> Iterator[str]:
    """A run that reads FINISHED when the block came to its end."""
    run = client.create_run(experiment, run_name=record.name, tags={**record.tags, **tags}).info.run_id
    yield run
    client.set_terminated(run, "FINISHED")


@contextlib.contextmanager
def _explained(place: Store) -> Iterator[None]:
    os.environ.update(SETTINGS)
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise StageError(f"MLflow at {place.uri}: {error}") from error
