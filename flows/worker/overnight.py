"""`arc night`: what ran, how long, what it cost, what came out, what failed and why, against the best so far."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import StateType
from prefect.types._datetime import now

from flows.queue import flow_runs
from flows.runs import places, records
from flows.runs.progress import duration
from flows.worker import recovery
from model.scoring.statistics import paired_difference

HOURS = 16.0
RESAMPLES = 2000
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


def since(hours: float) -> Any:
    """So many hours ago."""
    return now("UTC") - timedelta(hours=hours)


def rows(connection: SyncPrefectClient, start: Any) -> list[dict[str, str]]:
    """A row for every run that began after `start` or still runs, in the order in which they began."""
    found = [
        run
        for run in flow_runs.runs(connection, *ENDED, *recovery.ACTIVE)
        if run.start_time and (run.start_time >= start or (run.end_time or start) > start)
    ]
    scores = every_score()
    return [row(run, scores) for run in sorted(found, key=lambda run: run.start_time)]


def row(run: Any, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """One run. A resumed one counts with all its starts."""
    past = records.stages(str(run.id))
    deaths = records.deaths(str(run.id))
    state = run.state.name + (f", died {len(deaths)} ×" if deaths else "")
    why = "" if run.state.type == StateType.COMPLETED else run.state.message or ""
    mine = scores.get(str(run.id), {})
    return {
        "run": run.name,
        "state": state,
        "took": duration(run.total_run_time.total_seconds()),
        "GPU-minutes": f"{sum(stage.device_seconds for stage in past) / 60:.1f}",
        "from cache": f"{sum(stage.cached for stage in past)} of {len(past)} stages",
        "pass@2": "; ".join(f"{name} {percent(score)}" for name, score in mine.items()),
        "against the best": "; ".join(
            filter(None, (against(score, name, str(run.id), scores) for name, score in mine.items()))
        ),
        "why": " ".join(why.split())[:300],
    }


def percent(score: Mapping[str, Any]) -> str:
    """A score with its interval and size."""
    low, high = score["ci95"]
    return f"{100 * score['pass_at_2']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], {score['n_tasks']} tasks"


def every_score() -> dict[str, dict[str, Any]]:
    """Scores by run and evaluation, of every run that left a record."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((places.scratch() / "runs").glob("*/scores/*.json")):
        found.setdefault(path.parent.parent.name, {})[path.stem] = json.loads(path.read_text())
    return found


def against(score: Mapping[str, Any], evaluation: str, run: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The difference to the best other run of the same evaluation of the same tasks, with its interval."""
    mine = task_scores(score)
    others = [
        other[evaluation]
        for name, other in scores.items()
        if name != run and evaluation in other and set(other[evaluation]["tasks"]) == set(mine)
    ]
    if not others:
        return ""
    best = max(others, key=lambda other: float(other["pass_at_2"]))
    theirs = task_scores(best)
    names = sorted(mine)
    found = paired_difference(np.array([theirs[n] for n in names]), np.array([mine[n] for n in names]), RESAMPLES)
    low, high = found.low, found.high
    said = "" if found.shown else ", no difference shown"
    source = best["source"]
    return (
        f"{evaluation} {100 * found.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points to "
        f"{source['experiment']} seed {source['seed']}{said}"
    )


def task_scores(score: Mapping[str, Any]) -> dict[str, float]:
    """Share of its test grids solved, by task."""
    return {name: float(np.mean([grid["solved"] for grid in grids])) for name, grids in score["tasks"].items()}


def markdown(table: Sequence[Mapping[str, str]]) -> str:
    """The table for a Prefect artifact."""
    if not table:
        return "Nothing ran."

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = list(table[0])
    return "\n".join([line(head), line("---" for _ in head), *(line(row.values()) for row in table)])


def publish(connection: SyncPrefectClient, table: Sequence[Mapping[str, str]]) -> None:
    """Show it as the artifact `night`."""
    total = sum(float(row["GPU-minutes"]) for row in table)
    said = f"{len(table)} runs in the last {HOURS:.0f} hours, {total:.1f} GPU-minutes"
    text = f"{said}\n\n{markdown(table)}"
    connection.create_artifact(ArtifactCreate(key="night", type="markdown", description=said, data=text))
