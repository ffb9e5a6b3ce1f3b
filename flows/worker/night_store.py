"""Results in the MLflow store that no run of the queue made: those of `dvc repro` and `dvc exp run`."""

import os
import sys
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from flows.runs import places, records
from flows.runs.places import one_line
from flows.runs.progress import duration
from flows.worker.night_report import Row
from model.scoring.wording import headline
from tasks.common.documents import parse_json
from tasks.common.stage import StageError
from tasks.tracking import mlflow_runs, store
from tasks.tracking.mlflow_runs import KEY, KIND

KEPT_IN = "arc.kept_in"
"""Tag of a result that came with the repository."""


class _Published(BaseModel):
    """What this report reads of published.json."""

    key: str


def rows(start: Any, excluded: Collection[str]) -> list[Row]:
    """A row for every result that was published after `start`, without those whose key is in `excluded`.

    Raises StageError where the store does not answer, and OSError where it has no artifact.
    """
    place = store.configured_store()
    if place.empty:
        return []
    os.environ.update(store.SETTINGS, MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")
    since = int(1000 * start.timestamp())
    query = f"tags.`{KIND}` = 'experiment' and attributes.status = 'FINISHED' and attributes.end_time > {since}"
    with mlflow_runs.mlflow_errors(place):
        client = mlflow_runs.connect(place)
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()], query, max_results=1000)
        return [
            _row(client, run) for run in runs if run.data.tags.get(KEY) not in excluded and KEPT_IN not in run.data.tags
        ]


def reachable_rows(start: Any) -> list[Row]:
    """The rows of what no run of the queue made; none, and a line on stderr, where the store does not answer.

    The runs of the queue are reported all the same.
    """
    try:
        return rows(start, known_keys())
    except (StageError, OSError) as error:
        print(f"without the results of `dvc repro`: {one_line(error)}", file=sys.stderr, flush=True)
        return []


def known_keys() -> set[str]:
    """Keys of the results of the queue's runs. A damaged record is reported and counts as none."""
    keys = set()
    for path in (places.scratch() / "runs").glob("*/published.json"):
        published: _Published | None = records.read(path, _Published, None)
        if published:
            keys.add(published.key)
    return keys


def _row(client: Any, run: Any) -> Row:
    import mlflow

    children = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", max_results=1000
    )
    names = {f"{c.data.tags['arc.checkpoint']}-{c.data.tags['arc.evaluation']}": c.info.run_id for c in children}
    chosen = headline(sorted(names)) if names else ""
    scores = {}
    if chosen:
        score = parse_json(mlflow.artifacts.load_text(f"runs:/{names[chosen]}/score.json").encode(), "score.json")
        scores[chosen] = {**score, "title": run.info.run_name}
    minutes = run.data.metrics.get("cost/training_minutes", 0.0)
    return Row(
        run=run.data.tags[KEY],
        name=run.info.run_name,
        state="Completed",
        took=duration(60 * minutes),
        gpu_minutes=minutes if "cpu" not in run.data.tags.get("arc.device", "cpu").lower() else 0.0,
        cached="by `dvc repro`",
        scores=scores,
    )
