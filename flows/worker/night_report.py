"""`arc night`: duration, cost, scores and failures of recent runs, and their difference to the best run."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

import numpy as np
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import StateType
from prefect.types._datetime import now
from pydantic import BaseModel, ConfigDict, Field

from flows.queue import flow_runs
from flows.runs import places, records
from flows.runs.places import one_line
from flows.runs.progress import duration
from flows.worker import recovery
from model.scoring.statistics import paired_difference
from model.scoring.wording import TRAINING_TASKS, subset

HOURS = 16.0
RESAMPLES = 2000
COLUMNS = ("run", "state", "took", "GPU-minutes", "from cache", "pass@2", "against the best", "why")
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


class _Grid(BaseModel):
    solved: bool


class _Evaluation(BaseModel):
    subset: str = "evaluation"


class _Source(BaseModel):
    experiment: str
    seed: int
    evaluation: _Evaluation = _Evaluation()


class _Score(BaseModel):
    """What this report reads of a score file."""

    model_config = ConfigDict(allow_inf_nan=False)

    pass_at_2: float
    ci95: tuple[float, float]
    n_tasks: int
    tasks: Annotated[dict[str, Annotated[list[_Grid], Field(min_length=1)]], Field(min_length=1)]
    source: _Source


def since(hours: float) -> Any:
    """The time `hours` before now."""
    return now("UTC") - timedelta(hours=hours)


def rows(connection: SyncPrefectClient, start: Any) -> list[dict[str, str]]:
    """A row for every run that was active after `start`, sorted by start time."""
    recent = [
        run
        for run in flow_runs.runs(connection, *ENDED, *recovery.ACTIVE)
        if run.start_time and (run.start_time >= start or (run.end_time or start) > start)
    ]
    scores = every_score()
    return [_row_or_error(run, scores) for run in sorted(recent, key=lambda run: run.start_time)]


def _row_or_error(run: Any, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    try:
        return row(run, scores)
    except Exception as error:  # One damaged record must not hide the other runs.
        why = f"its records are damaged: {type(error).__name__}: {one_line(error)}"
        return dict.fromkeys(COLUMNS, "") | {"run": run.name, "GPU-minutes": "0.0", "why": why}


def row(run: Any, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The row of one run. Cost and stages are summed over all its starts."""
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
    """A score in percent with its 95 % interval and number of tasks; says if they are training tasks."""
    low, high = score["ci95"]
    tasks = f"{score['n_tasks']} {TRAINING_TASKS if subset(score) == 'training' else 'tasks'}"
    return f"{100 * score['pass_at_2']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], {tasks}"


def every_score() -> dict[str, dict[str, Any]]:
    """Recorded scores by run and evaluation, each with the `title` of its run."""
    scores: dict[str, dict[str, Any]] = {}
    for path in sorted((places.scratch() / "runs").glob("*/scores/*.json")):
        score: _Score | None = records.read(path, _Score, None)
        if score:
            run, named = path.parent.parent, path.parent.parent / "title"
            title = named.read_text() if named.exists() else f"{score.source.experiment} seed {score.source.seed}"
            scores.setdefault(run.name, {})[path.stem] = {**score.model_dump(), "title": title}
    return scores


def against(score: Mapping[str, Any], evaluation: str, run: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The difference to the best other run with the same evaluation and tasks, with its 95 % interval.

    Empty if there is no other run."""
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
    difference = paired_difference(np.array([theirs[n] for n in names]), np.array([mine[n] for n in names]), RESAMPLES)
    low, high = difference.low, difference.high
    remark = "" if difference.shown else ", no difference shown"
    return (
        f"{evaluation} {100 * difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points to "
        f"{best['title']}{remark}"
    )


def task_scores(score: Mapping[str, Any]) -> dict[str, float]:
    """Fraction of test grids solved, by task."""
    return {name: float(np.mean([grid["solved"] for grid in grids])) for name, grids in score["tasks"].items()}


def markdown(table: Sequence[Mapping[str, str]]) -> str:
    """The table in Markdown."""
    if not table:
        return "Nothing ran."

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = list(table[0])
    return "\n".join([line(head), line("---" for _ in head), *(line(row.values()) for row in table)])


def publish(connection: SyncPrefectClient, table: Sequence[Mapping[str, str]]) -> None:
    """Publish the table as the Prefect artifact `night`."""
    total = sum(float(row["GPU-minutes"]) for row in table)
    summary = f"{len(table)} runs in the last {HOURS:.0f} hours, {total:.1f} GPU-minutes"
    text = f"{summary}\n\n{markdown(table)}"
    connection.create_artifact(ArtifactCreate(key="night", type="markdown", description=summary, data=text))
