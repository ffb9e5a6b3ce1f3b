"""How a training goes on with half the micro-batch and which of its states it takes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.training import watch
from model.training.objective import size_loss
from tests.conftest import experiment
from tests.support.packed import ROWS, network, packed_rows

CONFIG = experiment(train={"batch": 8, "accumulation": 3}).train


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The newest state of a folder, and what a training was restored with."""
    made: dict[str, Any] = {"state": None}
    monkeypatch.setattr("model.training.watch.resume_states.newest", lambda _: made["state"] and "file")
    monkeypatch.setattr("model.training.watch.resume_states.read", lambda _: ({"w": 1}, made["state"]))
    return made


def make(config: Any) -> Any:
    restored: list[Any] = []
    return SimpleNamespace(config=config, restored=restored, restore=lambda *given: restored.append(given))


def test_half_the_batch_is_twice_the_accumulation() -> None:
    half = watch.halved(CONFIG)
    assert (half.batch, half.accumulation) == (4, 6)
    assert half.batch * half.accumulation == CONFIG.batch * CONFIG.accumulation


@pytest.mark.parametrize(("halve", "batch", "since"), [(False, 8, None), (True, 4, 0)])
def test_without_a_state_it_begins_anew(states: Any, tmp_path: Any, halve: bool, batch: int, since: int | None) -> None:
    training: Any
    training, after = watch.load(make, CONFIG, tmp_path, halve)
    assert (training.config.batch, after, training.restored) == (batch, since, [])


@pytest.mark.parametrize(
    ("before", "halve", "batch", "since", "place"),
    [
        (None, False, 8, None, (2, 5)),
        (None, True, 4, 7, (3, 7 * 6)),
        (4, False, 4, 4, (2, 5)),
    ],
)
def test_it_goes_on_from_its_state_and_in_the_next_chunk_where_its_batch_changed(
    states: Any, tmp_path: Any, before: int | None, halve: bool, batch: int, since: int | None, place: Any
) -> None:
    states["state"] = {"step": 7, "halved_after": before, "place": (2, 5), "rest": "same"}
    training: Any
    training, after = watch.load(make, CONFIG, tmp_path, halve)
    assert (training.config.batch, after) == (batch, since)
    [(tensors, plain)] = training.restored
    assert tensors == {"w": 1}
    assert (tuple(plain["place"]), plain["step"], plain["rest"]) == (place, 7, "same")


def test_sizes_of_which_none_counts_cost_nothing_and_divide_by_no_zero() -> None:
    net = network()
    packed = packed_rows(net, ROWS)
    count = len(packed.examples.task)
    logits = torch.randn(count, 2, 30)
    loss, right, counted = size_loss(packed, logits, torch.zeros(count, dtype=torch.bool))
    assert (float(loss), int(right.sum()), int(counted)) == (0.0, 0, 1)
    loss, _, counted = size_loss(packed, logits, torch.ones(count, dtype=torch.bool))
    assert int(counted) == count
    assert float(loss) > 0
