"""Which candidates the stage select takes for those of one training, and the loss by which it may choose."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.storage.checkpoints import Description
from tasks import select
from tasks.common import paths
from tasks.common.stage import StageError
from tests.conftest import experiment


def candidate(step: int, early: bool = False, **changes: Any) -> Description:
    config = experiment(train={"candidates": 4})
    values = {
        "format": 6,
        "experiment": config.name,
        "seed": 0,
        "step": step,
        "optimizer_steps": 12,
        "stopped_early": early,
        "weights": "raw",
        "train": config.train,
        "prepare": config.prepare,
        "augment": config.augment,
        "tasks": ["a"],
        "first_rows": [0],
        "task_rows": 1,
        "data": "0" * 64,
        "tests_trained_on": [],
        "pairs_trained_on": "",
        "leaks": 0,
    }
    return Description.model_validate(values | changes)


@pytest.mark.parametrize(
    ("steps", "early"),
    [((3, 6, 9, 12), False), ((3, 6, 9), True), ((3, 6, 8), True), ((2,), True), ((3,), True), ((3, 6, 9, 12), True)],
)
def test_all_candidates_of_a_training_are_taken(steps: tuple[int, ...], early: bool) -> None:
    select.check_complete([candidate(step, early and step == steps[-1]) for step in steps])


@pytest.mark.parametrize(
    ("steps", "early"),
    [
        ((3, 6, 9), False),
        ((3, 9, 12), False),
        ((6, 9, 12), False),
        ((3, 8), True),
        ((3, 6, 7, 8), True),
        ((12,), False),
    ],
)
def test_a_candidate_that_is_missing_or_left_over_is_noticed(steps: tuple[int, ...], early: bool) -> None:
    with pytest.raises(StageError) as refused:
        select.check_complete([candidate(step, early and step == steps[-1]) for step in steps])
    assert str(refused.value) == (
        f"{paths.CANDIDATES} has the candidates after {list(steps)} updates, but the training of 12 updates writes one "
        "every 3; run the stage train again"
    )


def test_candidates_of_none_or_of_two_trainings_are_refused() -> None:
    with pytest.raises(StageError, match="candidates has no candidates; run the stage train again"):
        select.check_complete([])
    with pytest.raises(StageError, match="has candidates of several trainings; run the stage train again"):
        select.check_complete([candidate(3), candidate(6, leaks=1), candidate(9), candidate(12)])


def test_the_loss_is_of_cells_and_a_tenth_of_that_of_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    config = experiment().train
    description = SimpleNamespace(train=config)
    measured = {"validation_cross_entropy": 2.0, "validation_size_cross_entropy": 5.0, "validation_loss": 9.0}

    def made(*given: Any) -> Any:
        asked.append(given)
        return SimpleNamespace(measure=lambda network: measured if network == "network" else {})

    monkeypatch.setattr(select, "choose", lambda: torch.device("cpu"))
    monkeypatch.setattr(select, "load", lambda *given: asked.append(given) or ("network", description))
    monkeypatch.setattr(select, "read_validation", lambda views: f"pairs of {views.name}")
    monkeypatch.setattr(select, "levels", lambda schedule, time_input, device: (len(schedule), time_input, str(device)))
    monkeypatch.setattr(select, "Validation", made)
    loss = select.validation_loss(Path("stem"), experiment(select={"weights": "raw"}).select, 7)
    assert loss == pytest.approx(2.5)
    loaded, validation = asked
    assert loaded == (Path("stem"), torch.device("cpu"), "raw")
    assert validation[0] == "pairs of training_views.parquet"
    assert (validation[1], validation[3]) == (config, 7)
    assert validation[2][1:] == (config.network.time_input, "cpu")


@pytest.mark.parametrize(
    ("criterion", "better", "worse"),
    [
        ("pass-at-2", {"pass_at_2": 0.5, "cell_accuracy": 0.1}, {"pass_at_2": 0.25, "cell_accuracy": 0.9}),
        ("pass-at-2", {"pass_at_2": 0.5, "cell_accuracy": 0.9}, {"pass_at_2": 0.5, "cell_accuracy": 0.1}),
        ("validation-loss", {"pass_at_2": 0.1, "validation_loss": 1.0}, {"pass_at_2": 0.9, "validation_loss": 2.0}),
    ],
)
def test_what_is_preferred(criterion: str, better: dict[str, float], worse: dict[str, float]) -> None:
    config = experiment(select={"criterion": criterion}).select
    assert select.preference(better, config) > select.preference(worse, config)
