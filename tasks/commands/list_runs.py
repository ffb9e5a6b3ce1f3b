"""`arc list`: the runs in the MLflow store, best first, one line each."""

import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.common.stage import StageError, stage
from tasks.tracking import mlflow_runs, store

WIDTH = 100
"""Columns where the output is no terminal."""


@stage("list")
def main(
    dataset: Annotated[str | None, typer.Option(help="Only this data set, such as aa1")] = None,
    limit: Annotated[int, typer.Option(help="Most lines", min=1)] = 30,
) -> None:
    """List what is in the MLflow store: pass@2 of the headline evaluation with its interval, best first."""
    rows = listed(store.configured_store(), dataset)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("pass@2 % [95 %]", "of", "run", "updates", "minutes", "ended"):
        table.add_column(name, justify="right" if name in ("updates", "minutes") else "left", no_wrap=name != "run")
    for row in rows[:limit]:
        table.add_row(*map(escape, row))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(table)
    if len(rows) > limit:
        console.print(f"{len(rows) - limit} more; --limit shows them")


def listed(place: store.Store, dataset: str | None = None) -> list[tuple[str, ...]]:
    """The cells of every run of a training, best first, and those without a score last. Raises StageError."""
    if place.empty:
        raise StageError(f"the MLflow store {place.uri} is empty; `arc import` publishes the kept results")
    all_runs = mlflow_runs.trainings(place)
    runs = [run for run in all_runs if dataset in (None, run.data.tags.get("arc.dataset"))]
    if not all_runs:
        raise StageError(f"the MLflow store {place.uri} holds no runs; `arc import` publishes the kept results")
    if not runs:
        datasets = sorted({run.data.tags.get("arc.dataset", "?") for run in all_runs})
        raise StageError(f"no run of data set {dataset!r} in {place.uri}; there are {', '.join(datasets)}")
    return [_row(run) for run in sorted(runs, key=_score, reverse=True)]


def _score(run: Any) -> float:
    """pass@2 of the headline evaluation; -1 if there is none."""
    evaluation = run.data.tags.get("arc.pass_at_2", "").partition(" ")[0]
    return float(run.data.metrics.get(f"pass_at_2/{evaluation}", -1.0))


def _row(run: Any) -> tuple[str, ...]:
    tags, metrics, ended = run.data.tags, run.data.metrics, run.info.end_time
    evaluation, _, score = tags.get("arc.pass_at_2", "").partition(" ")
    minutes = metrics.get("cost/training_minutes")
    return (
        score or run.info.status.lower(),
        evaluation,
        run.info.run_name,
        run.data.params.get("train.optimizer_steps", ""),
        "" if minutes is None else f"{minutes:.1f}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(ended / 1000)) if ended else "",
    )


if __name__ == "__main__":
    typer.run(main)
