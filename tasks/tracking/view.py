"""The saved views of the runs, and the addresses of MLflow's pages.

MLflow 3.17 keeps a saved view as the experiment's tag `mlflow.sharedViewState.KEY`: JSON with a name, times in
milliseconds and the page's state, itself JSON in a string. It is no public interface; a test in a browser pins it.
"""

import json
from collections.abc import Mapping
from typing import Any

BEST = "arc.best_of"
"""Tag of the best run of a version and data set, such as 'v8 aa1'; others lack it."""
VIEWS = {"scores": "tags.`arc.run` != 'evaluation'", "versions": f"tags.`{BEST}` != ''"}
"""The views that come with the store, all runs and the best of each version, and the runs they show."""
KEY = "scores"
"""The view that opens first."""

HEADLINE = "arc.pass_at_2"
"""The tag with the evaluation that stands for a run, its pass@2 and interval: final-votes 40.8 [36.0–45.6]."""
METRIC = "headline/pass_at_2"
"""Its pass@2 as a number, 0..1: runs are sorted and drawn by it."""
SCORES = ("best-votes", "final-votes")
"""Evaluations with a column each."""


def scored(evaluation: str) -> str:
    """The tag with an evaluation's pass@2 and interval in per cent, such as 33.5 [28.9–38.2]."""
    return f"arc.pass_at_2.{evaluation}"


_CREATED = 1767225600000  # Any constant: equal views give equal tags.
_PINNED = {"attributes.`Run Name`": 220, "runDateAndNestInfo": 130}
"""Widths in pixels of the columns that MLflow shows at the left of every table: the name, and when it was created."""
_WIDTHS = {
    f"tags.`{HEADLINE}`": 230,
    "tags.`arc.version`": 90,
    "tags.`arc.size`": 105,
    "tags.`arc.dataset`": 90,
    "tags.`arc.differs`": 230,
    "params.`train.optimizer_steps`": 140,
    "metrics.`cost/training_minutes`": 150,
    **{f"tags.`{scored(name)}`": 175 for name in SCORES},
}
"""Widths in pixels of the view's columns, in order: at 1600 pixels the score is beside the name."""


def experiments_page(page: str) -> str:
    """The list of experiments. Without the workflow type MLflow opens a page for language models."""
    return f"{page}/#/experiments?workflowType=machine_learning"


def runs_page(page: str, experiment: str, key: str = KEY) -> str:
    """The runs of an experiment, under a view of VIEWS."""
    return f"{page}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def as_charts(runs: str) -> str:
    """The address of a page of runs that opens with its charts: score by version and by cost, and curves."""
    return f"{runs}&compareRunsMode=CHART"


def run_page(page: str, experiment: str, run: str) -> str:
    """One run."""
    return f"{page}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def artifact_page(page: str, experiment: str, run: str, artifact: str) -> str:
    """A file of a run."""
    return f"{page}/#/experiments/{experiment}/runs/{run}/artifacts/{artifact}?workflowType=machine_learning"


def columns() -> list[str]:
    """Of the view, in order, as MLflow names them."""
    return list(_WIDTHS)


def tags() -> dict[str, str]:
    """The views as tags of an experiment."""
    view_tags = {}
    for key, shown in VIEWS.items():
        state = json.dumps(_state(shown), separators=(",", ":"))
        saved = {"name": key, "createdAt": _CREATED, "updatedAt": _CREATED, "state": state}
        view_tags[f"mlflow.sharedViewState.{key}"] = json.dumps(saved)
    return view_tags


def _state(shown: str) -> dict[str, Any]:
    """Columns, filter, order and charts; MLflow fills the rest with its defaults."""
    charts = [
        _chart("SCATTER", "score-by-version", xaxis=_axis("version", "PARAM"), yaxis=_axis(METRIC)),
        _chart("BAR", "score", metricKey=METRIC, dataAccessKey=None),
        _chart("SCATTER", "score-by-cost", xaxis=_axis("cost/training_minutes"), yaxis=_axis(METRIC)),
        _chart("LINE", "training-loss", metricKey="train/loss", **_line("train/loss")),
        _chart("LINE", "validation", metricKey="validation/pass_at_2", **_line("validation/pass_at_2")),
    ]
    return {
        "searchFilter": shown,
        "orderByKey": f"metrics.`{METRIC}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns(),
        "columnOrder": [*_PINNED, *columns()],
        "columnWidths": {**_PINNED, **_WIDTHS},
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": "arc", "name": "Scores", "display": True, "isReordered": True, "deleted": False}
            | {"isGenerated": False}
        ],
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOWALL",
    }


def _chart(kind: str, uuid: str, **fields: Any) -> Mapping[str, Any]:
    common = {"metricSectionId": "arc", "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return {"uuid": uuid, "type": kind, "displayName": uuid.replace("-", " "), **common, **fields}


def _axis(key: str, kind: str = "METRIC") -> dict[str, str]:
    return {"key": key, "type": kind}


def _line(metric: str) -> dict[str, Any]:
    return {
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "useGlobalXaxisKey": True,
        "range": {},
    }
