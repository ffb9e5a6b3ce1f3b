"""What a run in MLflow says of an experiment, from a made-up result whose numbers are all different."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.tracking import records, view
from tests.conftest import experiment

PAIRS = (("final", "votes"), ("best", "attempts"))


def score(number: float, **fields: Any) -> dict[str, Any]:
    given = {
        "pass_at_1": number - 0.01,
        "pass_at_2": number,
        "ci95": [number - 0.125, number + 0.125],
        "grids_solved": 3,
        "n_grids": 9,
        "n_tasks": 8,
        "missing": ["a", "b"],
        "strict": True,
        "selected_on_the_reported_set": True,
        "copying": {"copy_rate": 0.5, "curve": [1, 2], "shown": True},
        "signs": None,
    }
    source = {"experiment": "x", "seed": 0, "step": 9, "weights": "ema", "leaks": 2, "evaluation": {"steps": 3}}
    return given | {"source": source | fields.pop("source", {})} | fields


def finished(**changes: Any) -> records.Finished:
    """A result with two evaluations, two rows of history and one candidate."""
    history = [
        {"step": 4, "loss": 2.0, "accuracy": 0.25},
        {"step": 8, "loss": 1.0, "accuracy": 0.5, "validation_loss": 1.5},
    ]
    candidate = {"step": 8, "pass_at_2": 0.125, "ci95": [0.0625, 0.375], "missing": []}
    given: dict[str, Any] = {
        "parameters": experiment(dataset="aa1", seed=7).model_dump(mode="json"),
        "history": history,
        "selection": {"candidates": [candidate], "on_the_reported_set": True},
        "probes": {"ema": {"logits": 0.75, "deep": {"er": 2}}, "one": 1},
        "scores": {("final", "votes"): score(0.25, edition="E"), ("best", "attempts"): score(0.5, source={"leaks": 0})},
        "cost": {"seconds": 90.0, "device": "H100"},
        "code": {"mlflow.source.git.commit": "c" * 40},
        "files": {"history.json": Path("history.json")},
        "answers": {pair: {"score.json": Path(f"{pair[0]}.json")} for pair in PAIRS},
        "times": (10.0, 100.0),
        "extra": {"arc.more": "yes"},
    }
    return records.Finished(**{**given, **changes})


def test_the_run_of_a_training_has_every_parameter_curve_and_score() -> None:
    made = records.training(finished())
    title = experiment(dataset="aa1").title
    assert made.name == f"{title} seed 7"
    values = {key: yaml.safe_load(text) for key, text in made.params.items()}
    assert (values["train.network.width"], values["seed"]) == (32, 7)
    points = {(p.metric, p.step): p.value for p in made.points}
    assert len(points) == len(made.points)
    assert points == {
        ("train/loss", 4): 2.0,
        ("train/accuracy", 4): 0.25,
        ("train/loss", 8): 1.0,
        ("train/accuracy", 8): 0.5,
        ("validation/loss", 8): 1.5,
        ("validation/pass_at_2", 8): 0.125,
        ("validation/ci95_low", 8): 0.0625,
        ("validation/ci95_high", 8): 0.375,
        ("validation/missing", 8): 0.0,
        ("probe/ema/logits", 0): 0.75,
        ("probe/ema/deep/er", 0): 2.0,
        ("probe/one", 0): 1.0,
        ("pass_at_2/final-votes", 0): 0.25,
        ("pass_at_2_low/final-votes", 0): 0.125,
        ("pass_at_2_high/final-votes", 0): 0.375,
        ("pass_at_2/best-attempts", 0): 0.5,
        ("pass_at_2_low/best-attempts", 0): 0.375,
        ("pass_at_2_high/best-attempts", 0): 0.625,
        ("headline/pass_at_2", 0): 0.25,
        ("cost/training_seconds", 0): 90.0,
        ("cost/training_minutes", 0): 1.5,
    }
    assert made.tags["arc.pass_at_2"] == "final-votes 25.0 [12.5–37.5]", "the first where there is no headline"
    assert made.tags[view.scored("best-attempts")] == "50.0 [37.5–62.5]"
    assert (made.tags["arc.leaks"], made.tags["arc.edition"], made.tags["arc.device"]) == ("2", "E", "H100")
    assert made.tags["arc.selected_on_the_reported_set"] == "true"
    assert made.tags["arc.experiment"] == "v3/tiny/aa1"
    assert made.tags["arc.differs"] == title.removeprefix("v3/tiny/aa1 ")
    assert (made.tags["arc.more"], made.tags["arc.seed"]) == ("yes", "7")
    assert (made.times, made.artifacts) == ((10.0, 100.0), {"history.json": Path("history.json")})


def test_without_cost_and_leaks_nothing_is_made_up() -> None:
    scores = {("final", "votes"): score(0.25, source={"leaks": 0}, selected_on_the_reported_set=False)}
    selection = {"candidates": [], "on_the_reported_set": False}
    made = records.training(finished(cost=None, scores=scores, selection=selection))
    assert not any(point.metric.startswith("cost/") for point in made.points)
    assert (made.tags["arc.leaks"], made.tags["arc.selected_on_the_reported_set"]) == ("0", "false")
    assert "arc.device" not in made.tags
    assert "arc.edition" not in made.tags


def test_the_run_of_an_evaluation_has_its_score_and_settings() -> None:
    made = records.evaluation(finished(), ("final", "votes"))
    assert made.name.endswith(" seed 7 final-votes")
    values = {key: yaml.safe_load(text) for key, text in made.params.items()}
    expected = {"experiment": "x", "seed": 0, "step": 9, "weights": "ema", "checkpoint": "final"}
    assert {key: values[key] for key in expected} == expected
    assert (values["evaluation.name"], values["evaluation.steps"]) == ("votes", 3)
    assert any(key.startswith("score.") for key in values)
    assert {(p.metric, p.value, p.step) for p in made.points} == {
        ("pass_at_1", 0.24, 0),
        ("pass_at_2", 0.25, 0),
        ("ci95_low", 0.125, 0),
        ("ci95_high", 0.375, 0),
        ("grids_solved", 3.0, 0),
        ("n_grids", 9.0, 0),
        ("n_tasks", 8.0, 0),
        ("missing", 2.0, 0),
        ("copying/copy_rate", 0.5, 0),
        ("copying/shown", 1.0, 0),
    }
    wanted = {"arc.checkpoint": "final", "arc.evaluation": "votes", "arc.leaks": "2", "arc.edition": "E"}
    assert {key: made.tags[key] for key in wanted} == wanted
    assert made.tags["arc.pass_at_2"] == "25.0 [12.5–37.5]"
    assert made.tags["arc.caveats"] == "selected on the reported set; trained on evaluated pairs (2); E"
    assert made.artifacts == {"score.json": Path("final.json")}


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ([("final", "votes"), ("best", "votes")], "best-votes"),
        ([("final", "votes"), ("final", "attempts")], "final-votes"),
    ],
)
def test_the_headline_is_of_the_best_votes_or_the_first(asked: list[Any], chosen: str) -> None:
    scores = {pair: score(0.25 + i / 4) for i, pair in enumerate(asked)}
    assert records.headline(scores).startswith(f"{chosen} ")


def test_scores_of_training_tasks_do_not_stand_for_an_experiment() -> None:
    scores = {
        ("best", "votes"): score(0.5, source={"evaluation": {"subset": "training"}}),
        ("final", "votes"): score(0.25),
    }
    assert records.headline(scores).startswith("final-votes 25.0")


def test_the_note_is_a_table_of_the_scores_with_their_caveats() -> None:
    head, rule, first, second, *rest = records.note(finished(note="Restore it")).splitlines()
    assert head == "| evaluation | pass@2 % | 95 % interval | grids | tasks |  |"
    assert rule == "| --- | --- | --- | --- | --- | --- |"
    caveat = "**selected on the reported set**, **trained on evaluated pairs (2)**, **E**"
    assert first == f"| final-votes | 25.0 | 12.5–37.5 | 3 of 9 | 8 | {caveat} |"
    assert second == "| best-attempts | 50.0 | 37.5–62.5 | 3 of 9 | 8 | **selected on the reported set** |"
    assert rest == ["", "Restore it"]
    assert records.note(finished()).endswith("|")


@pytest.mark.parametrize("key", view.VIEWS)
def test_a_saved_view_sorts_by_the_headline_and_shows_its_columns(key: str) -> None:
    saved = json.loads(view.tags()[f"mlflow.sharedViewState.{key}"])
    state = json.loads(saved["state"])
    assert saved["name"] == key
    assert state["searchFilter"] == view.VIEWS[key]
    assert state["orderByKey"] == "metrics.`headline/pass_at_2`"
    assert state["orderByAsc"] is False
    assert state["selectedColumns"][0] == "tags.`arc.pass_at_2`"
    assert state["columnOrder"] == list(state["columnWidths"])
    # At 1600 pixels, less MLflow's bar at the left, the score is beside the name.
    shown = [*state["columnWidths"].values()][:3]
    assert sum(shown) < 1600 - 250
    charts = state["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["SCATTER", "BAR", "SCATTER", "LINE", "LINE"]
    assert not any(chart["deleted"] or chart["isGenerated"] for chart in charts)
    sections = {one["uuid"] for one in state["compareRunSections"] if one["display"] and not one["deleted"]}
    assert {chart["metricSectionId"] for chart in charts} == sections
    assert [chart["selectedMetricKeys"] for chart in charts[3:]] == [["train/loss"], ["validation/pass_at_2"]]
    assert all(chart["lineSmoothness"] == 0 for chart in charts[3:])
