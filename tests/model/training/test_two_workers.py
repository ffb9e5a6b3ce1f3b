"""Two workers that are threads of this process train as one does; see test_workers.py for processes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from model.training import trainer
from model.training.history import Diverged
from model.training.trainer import Stopped, Training
from tests.conftest import experiment
from tests.support import threaded_world
from tests.support.small_training import dataset, run, training

SMALL = {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "size_hidden": 8, "dropout": 0.0}
STEPS = {"optimizer_steps": 4, "warmup_steps": 1, "log_every": 2, "accumulation": 2, "batch": 2}
CONFIG = experiment(train={"network": SMALL, **STEPS}).train


def test_two_workers_save_and_go_on_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    start = training(CONFIG).network
    one = run(training(CONFIG), until=3)
    monkeypatch.setattr(trainer, "build", lambda *_: copy.deepcopy(start))

    def work() -> Any:
        mine = Training(dataset(), np.ones(18), 6, CONFIG, 0, torch.device("cpu"))
        saved: list[Any] = []
        with pytest.raises(Stopped, match="stopped after update 3 of 4; the state is saved"):
            mine.run(
                on_row=lambda _: None,
                on_candidate=lambda _: None,
                on_save=lambda: saved.append(mine.sums.clone()),
                stop=lambda: mine.step == 3 and mine.workers.rank == 1,
            )
        weights = mine.weights("raw")
        mine.restore(*copy.deepcopy(one.state()))
        mine.sums[0] = float("nan") if mine.workers.rank else 0.0
        with pytest.raises(Diverged, match="update 3: a loss or gradient norm since the last row is not finite"):
            mine._check_finite()
        return saved, mine.sums, weights, mine.history

    first, second = threaded_world.run(monkeypatch, 2, work)
    tensors, plain = one.state()
    torch.testing.assert_close(first[0], [tensors["sums"]], rtol=1e-4, atol=1e-6)
    assert float(tensors["sums"][1]) == 2, "the micro-batches since the row after update 2"
    assert [saved.tolist() for saved in second[0]] == [[0.0] * len(tensors["sums"])], "the first one has them"
    assert first[1][1] == 2
    assert second[1][1:].tolist() == [0.0] * (len(tensors["sums"]) - 1), "also where all read the state of the first"
    for _, _, weights, history in (first, second):
        torch.testing.assert_close(weights, one.weights("raw"), rtol=1e-4, atol=1e-6)
        assert history == [pytest.approx(row, rel=1e-4) for row in plain["history"]]
