"""A training in parts, with two workers that are threads of this process, against the whole one."""

import copy
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from model.training import sharding, trainer
from model.training.sharding import Sharded
from model.training.trainer import Training
from tests.conftest import experiment
from tests.support import threaded_world
from tests.support.small_training import dataset, held_out, run, training

SMALL = {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "size_hidden": 8, "dropout": 0.0}
CHANGES: dict[str, Any] = {
    "network": SMALL,
    "accumulation": 4,
    "batch": 2,
    "optimizer_steps": 2,
    "warmup_steps": 1,
    "log_every": 2,
    "gradient_clip": 0.3,
    "evaluated_weights": "ema",
    "validation": {"every": 2, "pairs": 4},
}
CONFIG = experiment(train=CHANGES).train


@pytest.fixture(scope="module")
def whole() -> Training:
    """The training by one worker."""
    return run(training(CONFIG, validation=held_out()))


@pytest.fixture(scope="module")
def start() -> nn.Module:
    """The network that all of them begin with, drawn once: the threads share a generator."""
    return training(CONFIG).network


def sharded(start: nn.Module, config: Any = CONFIG) -> Sharded:
    return Sharded(dataset(), np.ones(18), 6, config, 0, torch.device("cpu"), None, held_out())


@pytest.fixture
def two(start: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a function of a sharded training at two workers; the results of both."""
    monkeypatch.setattr(trainer, "build", lambda *_: copy.deepcopy(start))
    return lambda work, config=CONFIG: threaded_world.run(monkeypatch, 2, lambda: work(sharded(start, config)))


def kinds(one: Sharded) -> set[type]:
    """Types of the parameters of network and average."""
    return {type(p) for p in (*one.network.parameters(), *one.average.module.parameters())}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert type(tensor) is torch.Tensor
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_two_workers_that_hold_a_part_each_train_as_one(two: Any, whole: Training) -> None:
    def work(one: Sharded) -> Any:
        run(one)
        assert {p.requires_grad for p in one.average.module.parameters()} == {False}
        held = [len(sharding._part(p)) for p in one.network.parameters()]
        averages = [len(sharding._part(p)) for p in one.average.module.parameters()]
        return one.history, one.weights("ema"), one.weights("raw"), one.state(), held, averages, one.probe(), kinds(one)

    first, second = two(work)
    for history in (first[0], second[0]):
        assert [row["step"] for row in history] == [2.0]
        for ours, theirs in zip(history, whole.history, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    same(first[1], whole.weights("ema"))
    same(first[2], whole.weights("raw"))
    assert second[1:3] == ({}, {})
    tensors, plain = whole.state()
    same(first[3][0], tensors)
    assert second[3][0] == {}
    for _, ours in (first[3], second[3]):
        assert (ours["step"], ours["place"]) == (plain["step"], plain["place"])
    rows = [len(p) for p in whole.network.parameters()]
    assert [a + b for a, b in zip(first[4], second[4], strict=True)] == rows
    assert first[4] == first[5] == [-(-n // 2) for n in rows], "half of each"
    effects = whole.probe()
    for *_, found, left in (first, second):
        assert list(found) == list(effects)
        for name, seen in effects.items():
            assert found[name] == pytest.approx(seen, rel=1e-2), name
        assert left == {DTensor}, "gathered no longer"


def test_a_state_in_the_middle_of_a_row_goes_on_in_parts(two: Any, whole: Training) -> None:
    tensors, plain = run(training(CONFIG, validation=held_out()), until=1).state()
    assert tensors["sums"].abs().sum() > 0

    def work(one: Sharded) -> Any:
        one.restore(copy.deepcopy(tensors), json.loads(json.dumps(plain)))
        sums = one.sums.clone()
        return sums, run(one).history, one.weights("raw")

    (first, history, weights), (second, *_) = two(work)
    assert torch.equal(first, tensors["sums"])
    assert torch.equal(second, torch.zeros_like(first)), "the first one has the sums of all"
    for ours, theirs in zip(history, whole.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    same(weights, whole.weights("raw"))


def test_without_a_gradient_weights_decay_and_the_average_follows(two: Any, start: nn.Module) -> None:
    config = experiment(train={**CHANGES, "optimizer": {"learning_rate": 0.5, "weight_decay": 0.1}}).train

    def work(one: Sharded) -> Any:
        one.average.weight.fill_(0.25)
        one.apply()
        [optimizer] = one.optimizers
        assert isinstance(optimizer, torch.optim.AdamW)
        assert optimizer.defaults["lr"] == 0.5
        seen: list[set[type]] = []

        def fails() -> None:
            seen.append(kinds(one))
            raise KeyError

        with pytest.raises(KeyError):
            one._gathered(fails)
        return one.weights("raw"), one.weights("ema"), one.sums, seen, kinds(one)

    (raw, averages, sums, *seen), _ = two(work, config)
    assert seen == [[{nn.Parameter}], {DTensor}], "parted again whatever happens"
    assert not sums.any()
    for name, value in start.state_dict().items():
        torch.testing.assert_close(raw[name], 0.95 * value)
        torch.testing.assert_close(averages[name], 0.75 * value + 0.25 * raw[name])


class Counted(nn.Module):
    """Two parameters and two buffers, one of which no state holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.arange(6.0).view(3, 2)), nn.Parameter(torch.tensor([7.0]))
        self.register_buffer("seen", torch.tensor([8.0, 9.0]))
        self.register_buffer("hidden", torch.tensor([10]), persistent=False)


@pytest.mark.parametrize(("half", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_part_of_a_network_and_its_precision(two: Any, monkeypatch: Any, half: bool, dtype: torch.dtype) -> None:
    def work() -> Any:
        one: Any = object.__new__(Sharded)
        one.half, one.device = half, torch.device("cpu")
        one.mesh = init_device_mesh("cpu", (2,))
        network = Counted()
        whole = one._shard(network)
        seen = whole(lambda inner: [(inner is network, p.dtype, p.tolist()) for p in inner.parameters()])
        loss = whole(lambda inner: (inner.first.sum() + 2 * inner.second.sum()).float())
        loss.backward()
        whole.reshard()
        parts = [sharding._part(p) for p in network.parameters()]
        gradients = [sharding._part(p.grad) for p in network.parameters()]
        return seen, parts, gradients, [b.tolist() for b in network.buffers()]

    results = threaded_world.run(monkeypatch, 2, work)
    for seen, parts, gradients, buffers in results:
        assert seen == [(True, dtype, [[0, 1], [2, 3], [4, 5]]), (True, dtype, [7.0])]
        assert {p.dtype for p in (*parts, *gradients)} == {torch.float32}
        assert buffers == [[8.0, 9.0], [10]]
    assert [[p.tolist() for p in parts] for _, parts, _, _ in results] == [[[[0, 1], [2, 3]], [7]], [[[4, 5]], []]]
    assert [g.tolist() for g in results[0][2]] == [[[1, 1], [1, 1]], [2]]


MUON = (
    "train.optimizer.name is '{}' and train.finetune.adapters '{}'; a sharded training takes 'adamw' without adapters "
    "(Muon and NorMuon need whole matrices); change that or unset ARC_SHARD"
)
FROZEN = "train.finetune.task_table is 'frozen'; a sharded training trains all weights: set it to 'trained', or unset "


@pytest.mark.parametrize(
    ("workers", "optimizer", "finetune", "says"),
    [
        (1, "adamw", {}, "a sharded training needs more than one GPU; set ARC_GPUS, or unset ARC_SHARD"),
        (2, "muon", {}, MUON.format("muon", "none")),
        (2, "adamw", {"adapters": "lora"}, MUON.format("adamw", "lora")),
        (3, "adamw", {"task_table": "frozen"}, f"{FROZEN}ARC_SHARD"),
    ],
)
def test_what_cannot_be_sharded_is_refused(workers: int, optimizer: str, finetune: Any, says: str) -> None:
    one: Any = object.__new__(Sharded)
    one.workers = SimpleNamespace(count=workers)
    chosen = SimpleNamespace(**{"adapters": "none", "task_table": "trained", **finetune})
    one.config = SimpleNamespace(optimizer=SimpleNamespace(name=optimizer), finetune=chosen)
    with pytest.raises(ValueError, match=r"^.*$") as refused:
        one._place_weights()
    assert str(refused.value) == says
