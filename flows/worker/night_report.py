"""Duration, cost, scores and failures of recent runs, and differences between their scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import numpy as np
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.types._datetime import now
from pydantic import BaseModel, ConfigDict, Field

from flows.queue import flow_runs
from flows.runs import places, records
from flows.runs.places import FlowError, one_line
from flows.runs.progress import duration
from model.scoring.statistics import paired_difference
from model.scoring.wording import TRAINING_TASKS, VALIDATION_TASKS, headline, interval, subset
from model.scoring.wording import percent as per_cent

HOURS = 16.0
LONGEST_HOURS = 87_600.0
"""Ten years."""
RESAMPLES = 2000
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


@dataclass(frozen=True)
class Row:
    """One run."""

    run: str
    """Its id in Prefect; its key in MLflow for a result of `dvc repro`."""
    name: str
    state: str = ""
    took: str = ""
    gpu_minutes: float = 0.0
    """Summed over all its starts, as are the stages."""
    cached: str = ""
    """How many of its stages came from the cache."""
    why: str = ""
    """The reason of a failure."""
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By checkpoint-evaluation."""
    page: str = ""
    """Path of its page in Prefect."""

    @property
    def headline(self) -> str:
        """The evaluation that stands for the run; empty if it has no score."""
        return headline(self.scores) if self.scores else ""

    @property
    def pass_at_2(self) -> float:
        """Score of `headline`, 0..1; -1 if there is none."""
        return float(self.scores[self.headline]["pass_at_2"]) if self.scores else -1.0

    @property
    def score(self) -> str:
        """Score of `headline` in per cent with its 95 % interval; empty if there is none."""
        if not self.scores:
            return ""
        score = self.scores[self.headline]
        return f"{per_cent(score['pass_at_2'])} [{interval(score['ci95'])}]"


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
    """The time `hours` before now. Raises FlowError unless they are 0 to LONGEST_HOURS."""
    if not 0 <= hours <= LONGEST_HOURS:
        raise FlowError(f"--hours is {hours:g}; allowed are 0 to {LONGEST_HOURS:g}, which is ten years")
    return now("UTC") - timedelta(hours=hours)


def rows(connection: SyncPrefectClient, start: Any) -> list[Row]:
    """A row for every run that was active after `start`, sorted by score, the best first; then by start time."""
    runs = flow_runs.runs(connection, *flow_runs.ACTIVE) + flow_runs.runs(connection, *ENDED, ended_after=start)
    recent = [run for run in runs if run.start_time and (run.start_time >= start or (run.end_time or start) > start)]
    scores = every_score()
    return ordered([_row_or_error(run, scores) for run in sorted(recent, key=lambda run: run.start_time)])


def ordered(unsorted: list[Row]) -> list[Row]:
    """The best score first; those without a score last, in the order given."""
    return sorted(unsorted, key=lambda row: -row.pass_at_2)


def _row_or_error(run: Any, scores: Mapping[str, Mapping[str, Any]]) -> Row:
    try:
        return row(run, scores)
    except Exception as error:  # One damaged record must not hide the other runs.
        why = f"its records are damaged: {type(error).__name__}: {one_line(error)}"
        return Row(str(run.id), run.name, why=why)


def row(run: Any, scores: Mapping[str, Mapping[str, Any]]) -> Row:
    """The row of one run."""
    past = records.stages(str(run.id))
    deaths = records.deaths(str(run.id))
    why = "" if run.state.type == StateType.COMPLETED else run.state.message or ""
    return Row(
        run=str(run.id),
        name=run.name,
        state=run.state.name + (f", died {len(deaths)} ×" if deaths else ""),
        took=duration(run.total_run_time.total_seconds()),
        gpu_minutes=sum(stage.device_seconds for stage in past) / 60,
        cached=f"{sum(stage.cached for stage in past)} of {len(past)} stages",
        why=" ".join(why.split())[:300],
        scores=scores.get(str(run.id), {}),
        page=f"/runs/flow-run/{run.id}",
    )


def percent(score: Mapping[str, Any]) -> str:
    """A score in percent with its 95 % interval and number of tasks; says if they are no evaluation tasks."""
    low, high = score["ci95"]
    kind = {"training": TRAINING_TASKS, "validation": VALIDATION_TASKS}.get(subset(score), "tasks")
    tasks = f"{score['n_tasks']} {kind}"
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
