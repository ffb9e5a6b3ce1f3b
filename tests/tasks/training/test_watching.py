"""What a run says of a loss that rises, of a stall and of an early stop, and by which process."""

import os
from pathlib import Path
from typing import Any

import pytest

from model.training import watch
from model.training.watch import Watcher
from tasks.common.stage import StageError
from tasks.files import candidates
from tests.support.made_up_training import MadeUp, start, told

pytestmark = pytest.mark.usefixtures("log")
GO_ON = {"divergence": {"factor": 2.0, "rows": 3, "then": "go-on"}, "stall": {"seconds": 2.0, "then": "go-on"}}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_rises_is_told_by_the_first_process(rank: int, log: Path, capsys: Any) -> None:
    def script(training: MadeUp, callbacks: Any) -> None:
        for step, loss in enumerate((1.0, 1.0, 1.0, 2.5), start=1):
            training.history.append({"step": float(step), "loss": loss, "accuracy": 0.5})
            callbacks.on_row(training.history[-1])

    start(MadeUp(script, rank, 1 + rank), watch=GO_ON)
    says = "update 4: loss 2.5 is more than 2 times 1, the median of the 3 rows before"
    assert [event.message for event in told(log) if event.kind == "warned"] == ([] if rank else [says])
    assert (f"warning: {says}\n" in capsys.readouterr().out) == (not rank)
    with pytest.raises(StageError, match=rf"^{says}; the training diverged\. Lower"):
        start(MadeUp(script, rank, 1 + rank), watch={"divergence": GO_ON["divergence"] | {"then": "stop"}})


class ByHand(Watcher):
    """Looks when a test lets it, by a clock that the test sets."""

    made: list["ByHand"]

    def start(self) -> None:
        self.now = 0.0
        self.clock = lambda: self.now
        self._looked = 0.0
        ByHand.made = [self]

    def stop(self) -> None:
        pass

    def wait(self, seconds: int) -> None:
        for _ in range(2 * seconds):
            self.now += 0.5
            self.look()


def test_a_stall_counts_neither_updates_nor_the_time_of_a_candidate(monkeypatch: Any, log: Path) -> None:
    monkeypatch.setattr(watch, "Watcher", ByHand)
    monkeypatch.setattr(candidates, "score", lambda *_: ByHand.made[0].wait(30))

    def script(training: MadeUp, callbacks: Any) -> None:
        [watcher] = ByHand.made
        watcher.wait(1)
        callbacks.stop()
        watcher.wait(1)
        callbacks.on_candidate(6)
        watcher.wait(1)
        assert told(log) == []
        training.step = 6
        watcher.wait(1)

    start(MadeUp(script, evaluate_candidates=True), watch=GO_ON)
    [warned] = told(log)
    assert warned.message.startswith("no update for 2 s after update 6; the training is at ")


def test_a_stall_that_stops_ends_the_process_with_its_cost(monkeypatch: Any, log: Path, capsys: Any) -> None:
    monkeypatch.setattr(watch, "Watcher", ByHand)
    order: list[Any] = []
    monkeypatch.setattr(os, "_exit", order.append)

    def script(training: MadeUp, callbacks: Any) -> None:
        ByHand.made[0].wait(2)

    start(MadeUp(script), spend=lambda: order.append("spent"), watch={"stall": {"seconds": 2.0, "then": "stop"}})
    assert order == ["spent", 6]
    [failed] = told(log)
    assert failed.reason == "no progress"
    assert failed.message.startswith("no update for 2 s after update 0; the training is at ")
    assert failed.message.endswith("; start the stage again to go on from the last save")
    assert capsys.readouterr().err == f"train: {failed.message}\n"


STOP = {"every": 4, "patience": 4, "improvement": 0.25}


@pytest.mark.parametrize(
    ("rank", "early", "config"), [(0, True, STOP), (1, True, STOP), (0, False, STOP), (0, True, None)]
)
def test_an_early_stop_says_the_lowest_value(rank: int, early: bool, config: Any, capsys: Any) -> None:
    def script(training: MadeUp, callbacks: Any) -> None:
        training.step, training.stopped_early = 8, early
        values = ((2.0, 0.9), (4.0, 0.53125), (6.0, 0.5), (8.0, 0.6))
        training.history = [{"step": step, "validation_cross_entropy": value} for step, value in values]

    start(MadeUp(script, rank, 1 + rank, early_stop=config))
    says = (
        "stopped early after update 8 of 12: no validation cross-entropy below the 0.5312 of update 4 since"
        if (rank, early, config) == (0, True, STOP)
        else ""
    )
    assert [line for line in capsys.readouterr().out.splitlines() if "early" in line] == [says] * bool(says)
