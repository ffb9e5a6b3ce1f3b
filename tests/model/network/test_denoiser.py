"""The denoiser: packed equals one by one, what may be seen is seen, and what may not is not."""

import numpy as np
import pytest
import torch

from model.network.denoiser import build
from model.network.device_data import DeviceData, geometry
from model.network.packing import Budget, pack, pad_to_budget
from tests.conftest import experiment

CELLS = torch.randint(10, (400,), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
ROWS = [(0, 0, 0, 4, 5, 50, 3, 6), (2, 1, 20, 2, 3, 80, 5, 1), (1, 7, 40, 6, 6, 100, 6, 6), (2, 3, 9, 1, 1, 8, 1, 1)]


def _network(**network):
    config = experiment(train={"network": {"dropout": 0.0, "embedding_dropout": 0.0} | network}).train
    net = build(config, 3).eval().double()
    torch.nn.init.normal_(net.colour_head.weight)
    return net


def _pack(net, rows, budget=None):
    data = DeviceData(
        CELLS, torch.from_numpy(geometry(np.arange(8))), torch.arange(10).expand(8, 10), torch.arange(16).view(8, 2)
    )
    table, budget = pad_to_budget(rows, net.prefix_length, budget)
    return pack(torch.from_numpy(table), data, net.prefix_length, budget)


def _run(net, rows, budget=None, hidden=None, features=None):
    return _say(net, _pack(net, rows, budget), hidden, features)


def _say(net, packed, hidden=None, features=None):
    encoded = net.encode(packed, hidden)
    cells = packed.target_cell
    colours = cells * 7 % 10
    told = None if features is None else features[: len(cells)]
    logits = net.denoise(packed, encoded, colours, (cells % 3).double(), told, torch.ones(len(cells)).double())
    return packed, encoded, logits


def test_a_packed_batch_equals_its_examples_one_by_one():
    net = _network()
    packed, encoded, logits = _run(net, ROWS)
    for i, row in enumerate(ROWS):
        _, alone, expected = _run(net, [row])
        assert torch.allclose(logits[packed.target_example == i], expected, atol=1e-5)
        assert torch.allclose(encoded.size_logits[i], alone.size_logits[0], atol=1e-5)


def test_packed_with_padding_equals_packed_without_and_gradients_agree():
    net = _network()
    gradients, values = [], []
    for budget in (None, Budget(8, 256, 192, 64, 64)):
        packed, encoded, logits = _run(net, ROWS, budget)
        real = packed.examples.real > 0
        value = logits[packed.target_real].square().mean() + encoded.size_logits[real].square().mean()
        values.append(value)
        gradients.append(
            torch.autograd.grad(value, [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        )
    assert torch.allclose(*values, atol=1e-9)
    for a, b in zip(*gradients, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, atol=1e-8)


def test_the_order_of_the_examples_does_not_matter():
    net = _network()
    packed, _, logits = _run(net, ROWS)
    order = [2, 0, 3, 1]
    shuffled, _, other = _run(net, [ROWS[i] for i in order])
    for new, old in enumerate(order):
        ours, theirs = logits[packed.target_example == old], other[shuffled.target_example == new]
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("changed", [0, 1, 3])
def test_task_view_and_input_each_change_the_answer(changed):
    net = _network()
    rows = [list(ROWS[0])]
    _, _, before = _run(net, rows)
    rows[0][changed if changed < 2 else 2] += 1
    _, _, after = _run(net, rows)
    assert not torch.allclose(before, after, atol=1e-4)


def test_hiding_an_input_leaves_the_answer_to_the_task_alone():
    net = _network()
    shown = list(ROWS[0])
    other = list(ROWS[0])
    other[2] += 30
    hidden = torch.tensor([True])
    _, _, a = _run(net, [shown], hidden=hidden)
    _, _, b = _run(net, [other], hidden=hidden)
    _, _, c = _run(net, [other])
    assert torch.allclose(a, b, atol=1e-9)
    assert not torch.allclose(b, c, atol=1e-4)


def test_self_conditioning_features_reach_the_logits():
    net = _network()
    features = torch.randn(100, 10, dtype=torch.float64)
    _, _, without = _run(net, ROWS)
    _, _, told = _run(net, ROWS, features=features)
    assert not torch.allclose(without, told, atol=1e-4)


def test_a_rotation_without_a_view_token_is_a_rotation_of_the_positions():
    """With conditioning 'task' the network knows of a view only what the coordinates say."""
    net = _network(conditioning="task")
    square = [(0, 0, 40, 6, 6, 100, 6, 6)]
    _, _, identity = _run(net, square)
    _, _, turned = _run(net, [(0, 1, 40, 6, 6, 100, 6, 6)])
    assert not torch.allclose(identity, turned, atol=1e-4)
    flipped = torch.tensor(np.rot90(CELLS[40:76].reshape(6, 6).numpy(), -1).copy())
    data = DeviceData(
        torch.cat([flipped.flatten(), CELLS]),
        torch.from_numpy(geometry(np.arange(8))),
        torch.arange(10).expand(8, 10),
        torch.zeros(8, 0).long(),
    )
    table, budget = pad_to_budget([(0, 0, 0, 6, 6, -1, 6, 6)], net.prefix_length, None)
    packed = pack(torch.from_numpy(table), data, net.prefix_length, budget)
    original = torch.arange(36).reshape(6, 6)
    cell = torch.tensor(np.rot90(original.numpy(), -1).copy()).flatten()
    one = torch.ones(36).double()
    by_hand = net.denoise(packed, net.encode(packed), cell * 7 % 10, (cell % 3).double(), None, one)
    assert torch.allclose(by_hand, turned[cell], atol=1e-5)
