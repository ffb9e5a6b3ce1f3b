"""The denoiser: packing changes no result, and every input reaches the outputs that it should and no others."""

import numpy as np
import pytest
import torch

from model.network.device_data import DeviceData, geometry
from model.network.packing import Budget, pack, pad_to_budget
from tests.support.packed import CELLS, ROWS, network, run


def test_a_packed_batch_equals_its_examples_one_by_one():
    net = network()
    packed, encoded, logits = run(net, ROWS)
    for i, row in enumerate(ROWS):
        _, alone, expected = run(net, [row])
        assert torch.allclose(logits[packed.target_example == i], expected, atol=1e-5)
        assert torch.allclose(encoded.size_logits[i], alone.size_logits[0], atol=1e-5)


def test_packed_with_padding_equals_packed_without_and_gradients_agree():
    net = network()
    gradients, values = [], []
    for budget in (None, Budget(8, 256, 192, 64, 64)):
        packed, encoded, logits = run(net, ROWS, budget)
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
    net = network()
    packed, _, logits = run(net, ROWS)
    order = [2, 0, 3, 1]
    shuffled, _, other = run(net, [ROWS[i] for i in order])
    for new, old in enumerate(order):
        ours, theirs = logits[packed.target_example == old], other[shuffled.target_example == new]
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("changed", [0, 1, 3])
def test_task_view_and_input_each_change_the_answer(changed):
    net = network()
    rows = [list(ROWS[0])]
    _, _, before = run(net, rows)
    rows[0][changed if changed < 2 else 2] += 1
    _, _, after = run(net, rows)
    assert not torch.allclose(before, after, atol=1e-4)


def test_a_hidden_input_grid_does_not_reach_the_logits():
    net = network()
    shown = list(ROWS[0])
    other = list(ROWS[0])
    other[2] += 30
    hide_input = torch.tensor([True])
    _, _, a = run(net, [shown], hide_input=hide_input)
    _, _, b = run(net, [other], hide_input=hide_input)
    _, _, c = run(net, [other])
    assert torch.allclose(a, b, atol=1e-9)
    assert not torch.allclose(b, c, atol=1e-4)


def test_self_conditioning_features_reach_the_logits():
    net = network()
    features = torch.randn(100, 10, dtype=torch.float64)
    _, _, without = run(net, ROWS)
    _, _, conditioned = run(net, ROWS, features=features)
    assert not torch.allclose(without, conditioned, atol=1e-4)


def test_a_rotation_without_a_view_token_is_a_rotation_of_the_positions():
    """With conditioning 'task' a view reaches the network through the coordinates only."""
    net = network(conditioning="task")
    square = [(0, 0, 40, 6, 6, 100, 6, 6)]
    _, _, identity = run(net, square)
    _, _, turned = run(net, [(0, 1, 40, 6, 6, 100, 6, 6)])
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
