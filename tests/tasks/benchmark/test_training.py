"""Rates of a training are those of its timed updates."""

from typing import Any

import pytest

from model.config.experiment import Experiment
from model.training.trainer import Training
from tasks.benchmark import flops, training
from tasks.benchmark.flops import Lengths
from tasks.benchmark.grids import dataset
from tests.support.benchmark import CPU, Clock


@pytest.mark.parametrize("kind", ["mixed", "short"])
def test_rates_of_a_training_are_of_the_timed_updates_alone(subject: Experiment, monkeypatch: Any, kind: str) -> None:
    monkeypatch.setattr(training, "dataset", lambda e, side, tasks: dataset(e, side, min(tasks, 3)))
    clock = Clock()
    monkeypatch.setattr(training, "time", clock)
    counted: list[tuple[int, int, float]] = []
    real = flops.training

    def count(network: Any, lengths: Lengths, estimate: Any) -> float:
        made = real(network, lengths, estimate)
        counted.append((len(lengths.target), int(lengths.context.sum() + lengths.target.sum()), made))
        return made

    monkeypatch.setattr("tasks.benchmark.training.flops.training", count)
    batches: list[int] = []
    real_training = Training

    def trained(data: Any, weights: Any, rows: int, config: Any, *rest: Any) -> Any:
        batches.append(config.batch)
        return real_training(data, weights, rows, config.model_copy(update={"batch": 2}), *rest)

    monkeypatch.setattr(training, "Training", trained)
    row = training.training(subject, kind, CPU, 3, False)
    assert len(counted) == 3 * subject.train.accumulation
    examples, rows, operations = (sum(column) for column in zip(*counted, strict=True))
    # The clock is read before and after the timed updates: one second for all.
    assert row["ms_per_update"] == pytest.approx(1000 / 3)
    assert row["examples_per_s"] == examples
    assert row["rows_per_s"] == rows
    assert row["ns_per_row"] == pytest.approx(1e9 / rows)
    assert row["flop_per_s"] == pytest.approx(operations)
    assert row["seconds_to_first_update"] == 1.0
    assert 0 < row["fill"] <= 1
    assert row["peak_memory_gb"] is None
    # Three pairs of 5 cells and one of 3, or 50 with sides of 5: as many cells an update.
    assert batches == [40 if kind == "mixed" else round(40 * 4.5 / 50)]
