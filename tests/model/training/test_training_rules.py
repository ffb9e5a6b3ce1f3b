"""What a training refuses, the rates of its optimisers, and its watchdog in a thread."""

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.config.watch import Divergence, Stall, Watch
from model.diffusion.schedule import cosine_schedule, levels
from model.training import watch
from model.training.batches import Stream
from model.training.optimizer import set_rate
from model.training.trainer import Training
from model.training.validation import Validation
from model.training.watch import Watchdog, Watcher
from tests.conftest import experiment
from tests.support.small_training import dataset, held_out, training

STOP = {"every": 4, "patience": 4, "improvement": 0.0}


def test_early_stopping_needs_pairs_to_look_at() -> None:
    config = experiment(train={"early_stop": STOP}).train
    with pytest.raises(ValueError, match=r"^train.early_stop needs validation pairs with their solutions$"):
        training(config)
    assert training(config, validation=held_out()).validation is not None
    assert training(experiment().train).validation is None


def test_the_last_updates_need_weights_of_their_own() -> None:
    config = experiment(train={"last_share_on_evaluation": 0.25, "accumulation": 2}).train
    with pytest.raises(ValueError, match=r"^train.last_share_on_evaluation needs the sampling weights of the last upd"):
        training(config)
    first = np.zeros(18)
    first[5] = 1.0
    made = Training(dataset(), np.ones(18), 6, config, 0, torch.device("cpu"), last_weight=first)
    assert made.stream.last is not None
    assert made.stream.last.first == 2 * 9, "of 12 updates with two batches each, the last quarter"


@pytest.mark.parametrize("offset", [-1, None])
def test_pairs_without_an_output_are_refused(offset: int | None) -> None:
    data, config = dataset(), experiment().train
    pairs = data.pairs.rows(np.arange(0))
    if offset is not None:
        pairs = replace(data.pairs, output_offset=np.where(np.arange(18) == 7, offset, 0))
    with pytest.raises(ValueError, match=r"^training needs pairs, each with its output$"):
        Stream(pairs, data.views, np.ones(18), 4, 1, 0)
    table = levels(cosine_schedule(config.noise), config.network.time_input, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^validation needs pairs, each with its output$"):
        Validation(replace(data, pairs=pairs), config, table, 0)
    zero = replace(data.pairs, output_offset=np.zeros(18, int))
    Stream(zero, data.views, np.ones(18), 4, 1, 0)
    Validation(replace(data, pairs=zero), config, table, 0)


def test_a_rate_that_a_graph_reads_is_changed_in_place() -> None:
    tensor, parameters = torch.tensor(0.5), [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": tensor}, {"params": parameters[1:], "lr": 0.5}])
    set_rate(optimizer, 0.125)
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first is tensor
    assert float(tensor) == 0.125
    assert second == 0.125
    assert isinstance(second, float)


def test_the_watchdog_looks_by_itself_until_it_is_stopped() -> None:
    called, told = threading.Event(), []

    def on_stall(seconds: float, place: str) -> None:
        told.append((seconds, place))
        called.set()

    dog = Watchdog(0.02, on_stall)
    assert dog._thread.daemon, "a training that ends does not wait for it"
    dog.start()
    assert called.wait(60)
    dog.stop()
    assert not dog._thread.is_alive()
    [(seconds, place)] = told
    assert 0.02 <= seconds < 0.04
    file, _, name = place.rpartition(", ")
    assert name
    assert file.partition(":")[0] in (threading.__file__, __file__), "where the thread is that made the watchdog"


def test_a_thread_that_has_ended_is_nowhere() -> None:
    assert watch._place(-1) == "an unknown place"


@pytest.mark.parametrize(("seconds", "looks"), [(10.0, 5), (4.0, 2), (2.0, 2), (0.4, 2), (4.2, 3)])
def test_at_most_two_ticks_of_a_sleep_count(seconds: float, looks: int) -> None:
    """A tick is a quarter of the time, and at most a second."""
    now, told = [0.0], []
    dog = Watchdog(seconds, lambda *given: told.append(given), lambda: now[0])
    for _ in range(looks):
        assert told == []
        now[0] += 1e6
        dog.look()
    assert len(told) == 1


@pytest.mark.parametrize("then", ["stop", "go-on"])
def test_a_stall_ends_the_training_or_is_told(then: Any) -> None:
    config = Watch(
        divergence=Divergence(factor=2.0, rows=3, then="stop"),
        stall=Stall(seconds=9.0, then=then),
        out_of_memory="stop",
    )
    warned: list[str] = []
    ended: list[str] = []
    subject: Any = SimpleNamespace(step=7)
    watcher = Watcher(subject, config, warned.append, ended.append)
    assert (watcher.seconds, watcher.on_stall) == (9.0, watcher._stalled)
    watcher.on_stall(9.4, "here.py:3, f")
    text = "no update for 9 s after update 7; the training is at here.py:3, f"
    assert (warned, ended) == (
        ([text], []) if then == "go-on" else ([], [f"{text}; start the stage again to go on from the last save"])
    )
