"""Our own scores: of the experiments in the MLflow store, and of the results that come with the repository."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from model.scoring.wording import headline, interval, percent
from tasks.commands import import_results
from tasks.common.stage import StageError
from tasks.comparison import results
from tasks.tracking import records, store
from tasks.tracking.mlflow_runs import KIND


class Ours(NamedTuple):
    """The score that stands for one result of ours."""

    experiment: str
    title: str
    seed: str
    pair: str
    pass_at_2: float
    """Share, 0..1."""
    ci95: tuple[float, float]

    @property
    def version(self) -> str:
        """The version of the experiment, such as v3."""
        return version_of(self.experiment)

    @property
    def text(self) -> str:
        """The whole of it in a line."""
        return f"{self.title} seed {self.seed}: {self.pair} {percent(self.pass_at_2)} [{interval(self.ci95)}]"


def version_of(experiment: str) -> str:
    """The version in the name of an experiment."""
    return experiment.split("/")[0].split("+")[0]


def find(version: str | None = None) -> list[Ours]:
    """Every result, or those of one version, one score each, the highest first. Raises StageError."""
    stored = list(_stored())
    elsewhere = {kept for _, kept in stored}
    scores = [ours for ours, _ in stored if version is None or ours.version == version]
    kept_here = [place for place in _folders() if place.as_posix() not in elsewhere]
    scores += [_kept(place) for place in kept_here if version is None or _version(place) == version]
    return sorted(scores, key=lambda ours: -ours.pass_at_2)


def kept() -> dict[str, Ours]:
    """The results that come with the repository, by the name of their folder, the highest first."""
    scores = {place.name: _kept(place) for place in _folders()}
    return dict(sorted(scores.items(), key=lambda item: -item[1].pass_at_2))


def _folders() -> list[Path]:
    return import_results.kept_results(store.KEPT_RESULTS) if store.KEPT_RESULTS.is_dir() else []


def _stored() -> Iterator[tuple[Ours, str]]:
    """The scores of the store, and the folder in which a result is kept, or ''."""
    target = store.configured_store()
    if target.empty:
        return
    os.environ.update(store.SETTINGS)
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.set_tracking_uri(target.uri)
        for run in results.finished_runs(mlflow.MlflowClient(), f"tags.`{KIND}` = 'experiment'"):
            tags, metrics = run.data.tags, run.data.metrics
            pairs = [name.removeprefix("pass_at_2/") for name in metrics if name.startswith("pass_at_2/")]
            if not pairs:
                continue
            pair = headline(pairs)
            low, high = metrics[f"pass_at_2_low/{pair}"], metrics[f"pass_at_2_high/{pair}"]
            name = tags["arc.experiment"]
            title = tags.get("arc.title", name)
            ours = Ours(name, title, tags["arc.seed"], pair, metrics[f"pass_at_2/{pair}"], (low, high))
            yield ours, tags.get("arc.kept_in", "")
    except MlflowException as error:
        raise StageError(f"MLflow at {target.uri}: {error}") from error


def _values(place: Path) -> dict[str, Any]:
    return import_results.resolved(place / import_results.NEEDED[0])


def _version(place: Path) -> str:
    return version_of(records.named(_values(place)))


def _kept(place: Path) -> Ours:
    """The headline of a kept result, scored again: some seconds."""
    values = _values(place)
    files = {file.stem: file for file in sorted(place.glob("*.parquet"))}
    pair = headline(files)
    _, score = import_results.rescore(files[pair], values)
    return Ours(
        records.named(values),
        values["title"],
        json.dumps(values["seed"]),
        pair,
        score["pass_at_2"],
        tuple(score["ci95"]),
    )
