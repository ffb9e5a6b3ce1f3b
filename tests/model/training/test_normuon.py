"""NorMuon against its paper's algorithm, one matrix at a time, and the decay of matrices and tables."""

import copy

import pytest
import torch

from model.network.denoiser import build
from model.training.muon import Muon, newton_schulz, stacked
from model.training.optimizer import buffer, decay_groups, optimizers
from tests.conftest import experiment


def _reference(weight, gradients, rate, decay):
    """Algorithm 1 of Li et al. 2025 for one matrix, with Nesterov momentum as in our Muon."""
    momentum, square = torch.zeros_like(weight), torch.zeros(weight.shape[0])
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
        orthogonal = newton_schulz((0.05 * gradient + 0.95 * momentum)[None])[0]
        square = 0.95 * square + 0.05 * (orthogonal**2).mean(1)
        normalised = orthogonal / (square[:, None].sqrt() + 1e-10)
        step = 0.2 * rate * weight.numel() ** 0.5 / normalised.norm() * normalised
        weight = weight * (1 - rate * decay) - step
    return weight


@pytest.mark.parametrize("pieces", [1, 3])
def test_normuon_equals_the_papers_algorithm(pieces):
    torch.manual_seed(0)
    shapes = [(12, 8), (12, 8), (6, 20)]
    weights = [torch.nn.Parameter(torch.randn(pieces * rows, columns)) for rows, columns in shapes]
    before = [w.detach().clone() for w in weights]
    gradients = [[torch.randn_like(w) * torch.rand(len(w), 1) ** 4 for w in weights] for _ in range(4)]
    buffer(weights, move=True)
    _, places = buffer(weights)
    optimizer = Muon([(w, pieces) for w in weights], learning_rate=0.02, weight_decay=0.1, by_neuron=True)
    for step in gradients:
        for weight, gradient, place in zip(weights, step, places, strict=True):
            weight.grad = place.copy_(gradient)
        optimizer.step()
    for i, weight in enumerate(weights):
        parts = [chunk.chunk(pieces) for chunk in (before[i], *(step[i] for step in gradients))]
        expected = [_reference(first, rest, 0.02, 0.1) for first, *rest in zip(*parts, strict=True)]
        assert torch.allclose(weight, torch.cat(expected), atol=1e-6)


def test_the_rows_of_an_update_become_equal_and_its_size_stays_adamws():
    torch.manual_seed(0)
    rows = {}
    for by_neuron in (False, True):
        weight = torch.nn.Parameter(torch.zeros(24, 8))
        optimizer = Muon([(weight, 1)], learning_rate=1.0, weight_decay=0.0, by_neuron=by_neuron)
        weight.grad = torch.randn(24, 8) * torch.logspace(-3, 0, 24)[:, None]
        optimizer.step()
        rows[by_neuron] = weight.detach().square().mean(1).sqrt()
    assert rows[False].max() > 10 * rows[False].min()
    assert torch.allclose(rows[True], torch.full((24,), 0.2), rtol=1e-3)


def test_a_state_continues_as_if_it_had_not_been_saved():
    torch.manual_seed(1)
    gradients = torch.randn(4, 8, 6)

    def run(weight, optimizer, steps):
        for gradient in steps:
            weight.grad = gradient
            optimizer.step()

    weight = torch.nn.Parameter(torch.ones(8, 6))
    optimizer = Muon([(weight, 1)], learning_rate=0.1, weight_decay=0.1, by_neuron=True)
    run(weight, optimizer, gradients[:2])
    other = torch.nn.Parameter(weight.detach().clone())
    resumed = Muon([(other, 1)], learning_rate=0.1, weight_decay=0.1, by_neuron=True)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(weight, optimizer, gradients[2:])
    run(other, resumed, gradients[2:])
    assert torch.equal(weight, other)


@pytest.mark.parametrize("name", ["adamw", "normuon"])
def test_tables_decay_by_their_own_rate_and_matrices_by_theirs(name):
    """Without gradients AdamW only decays: what is left says by how much."""
    decays = {"weight_decay": 0.5, "table_weight_decay": 0.0, "learning_rate": 0.1, "name": name}
    config = experiment(train={"optimizer": decays, "network": {"head_gains": "learned"}}).train
    network = build(config, 4)
    for parameter in network.parameters():
        torch.nn.init.ones_(parameter)
    buffer(list(network.parameters()), move=True)
    for parameter, gradient in zip(network.parameters(), buffer(list(network.parameters()))[1], strict=True):
        parameter.grad = gradient
    for optimizer in optimizers(network, config):
        optimizer.step()
    kept = {n for n, p in network.named_parameters() if torch.equal(p, torch.ones_like(p))}
    left = {n: float(p.detach().flatten()[0]) for n, p in network.named_parameters() if n not in kept}
    assert all(value == pytest.approx(0.95) for value in left.values())
    tables = {"task_table.weight", "conditioning_table.weight", "input_cells.weight", "output_cells.weight"}
    vectors = {n for n, p in network.named_parameters() if p.dim() < 2}
    assert kept == tables | vectors
    assert {"size_token", "blocks.0.log_gain", "size_head.0.bias"} <= vectors


def test_matrices_that_do_not_lie_evenly_are_refused():
    """Of free ones the distances are by chance, and a view of them would reach into other memory."""
    for count in (2, 3):
        weights = [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(count)]
        optimizer = Muon([(w, 1) for w in weights], learning_rate=0.1, weight_decay=0.0)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        with pytest.raises(ValueError, match=rf"{count} matrices \(4, 4\) of Muon do not lie evenly spaced"):
            optimizer.step()
    whole = torch.arange(96.0).view(6, 4, 4)
    with pytest.raises(ValueError, match="3 matrices"):
        stacked([whole[i] for i in (0, 1, 3)], 1)
    every_second = stacked([whole[i] for i in (1, 3, 5)], 2)
    assert torch.equal(every_second, whole[1::2].unflatten(1, (2, 2)))
    every_second.zero_()
    assert whole[1::2].sum() == 0, "a view"


def test_one_decay_makes_one_group():
    config = experiment().train
    assert len(decay_groups(build(config, 4).named_parameters(), config)) == 1
