"""Recursion against a network that has the same layers twice, and the loss of each turn."""

import pytest
import torch

from model.diffusion.schedule import cosine_schedule, levels
from model.network.device_data import to_device
from model.network.packing import pack, pad_to_budget
from model.ops.dropout import seeds
from model.ops.keyed_random import hash_key
from model.training.objective import BatchRandomness, StepMode, mean_over_turns, training_loss
from tests.conftest import experiment
from tests.support.packed import ROWS, network, packed_rows, run
from tests.support.small_training import dataset

SWITCHES = {"head_gains": "learned", "convolution": "3x3"}


def _randomised(net):
    for block in net.blocks:
        torch.nn.init.normal_(block.log_gain, std=0.3)
        torch.nn.init.normal_(block.convolution, std=0.3)
    return net


def _unrolled(net):
    """A network of one turn whose layers are those of `net`, again and again."""
    config = net.config
    more = network(**SWITCHES, layers=config.layers * config.turns)
    states = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("blocks.")}
    for turn in range(config.turns):
        for i, block in enumerate(net.blocks):
            prefix = f"blocks.{turn * config.layers + i}."
            states |= {prefix + name: tensor for name, tensor in block.state_dict().items()}
    more.load_state_dict(states)
    return more


@pytest.mark.parametrize("turns", [2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_turns_are_those_of_an_unrolled_network_and_its_gradients_are_added(turns, dropout):
    drops = {"dropout": dropout, "hidden_dropout": dropout}
    net = _randomised(network(**SWITCHES, layers=2, turns=turns))
    more = _unrolled(net)
    for x in (net, more):
        x.config = x.config.model_copy(update=drops)
    assert net.dropouts == more.dropouts
    results = []
    for subject in (net, more):
        packed = packed_rows(subject, ROWS)
        own = seeds(torch.tensor(5), 2, subject.dropouts)
        encoded = subject.encode(packed, seeds=own[0])
        cells = packed.target_cell
        logits = subject.denoise(packed, encoded, cells * 7 % 10, (cells % 3).double(), None, None, own[1])
        value = logits.square().mean() + encoded.size_logits.square().mean()
        named = dict(subject.named_parameters())
        gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        results.append((logits, encoded.size_logits, dict(zip(named, gradients, strict=True))))
    ours, theirs = results
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert any(gradient is not None for gradient in ours[2].values())
    for name, gradient in ours[2].items():
        names = [name]
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            names = [f"blocks.{2 * turn + int(layer)}.{rest}" for turn in range(turns)]
        parts = [theirs[2][n] for n in names if theirs[2][n] is not None]
        assert (gradient is None) == (not parts)
        if parts:
            assert torch.allclose(gradient, torch.stack(parts).sum(0), atol=1e-9)


def test_each_turn_predicts_and_the_last_one_answers():
    """The first turn is all that a network of one turn does."""
    net = _randomised(network(**SWITCHES, layers=2, turns=2))
    once = network(**SWITCHES, layers=2)
    once.load_state_dict(net.state_dict())
    packed, encoded, answer = run(net, ROWS)
    cells = packed.target_cell
    arguments = packed, encoded, cells * 7 % 10, (cells % 3).double(), None, torch.ones(len(cells)).double()
    first, last = net.denoise_turns(*arguments, every_turn=True)
    assert torch.equal(last, answer)
    assert torch.allclose(first, run(once, ROWS)[2], atol=1e-9)
    assert not torch.allclose(first, last, atol=1e-3)
    (alone,) = net.denoise_turns(*arguments, every_turn=False)
    assert torch.equal(alone, last)


def test_networks_of_more_turns_start_with_smaller_outputs():
    once, often = (network(turns=turns).blocks[0].feed_out.weight.detach().std() for turns in (1, 4))
    assert float(often) == pytest.approx(float(once) / 2, rel=0.1)


def test_the_mean_over_turns_has_the_given_share_of_the_last():
    losses = [torch.tensor(x) for x in (1.0, 2.0, 6.0)]
    assert float(mean_over_turns(losses, None)) == pytest.approx(3.0)
    assert float(mean_over_turns(losses, 1.0)) == 6.0
    assert float(mean_over_turns(losses, 0.5)) == pytest.approx(0.5 * 6 + 0.25 * 1 + 0.25 * 2)
    assert mean_over_turns(losses[:1], 0.5) is losses[0]


def _loss(turns, share, mean="cells"):
    """Loss without dropout and size head, and metrics."""
    switches = {"turns": turns, "dropout": 0.0, "embedding_dropout": 0.0, "input_grid_dropout": 0.0}
    config = experiment(
        train={"network": switches, "last_turn_share": share, "size_loss_weight": 0.0, "loss_mean": mean}
    ).train
    net = network(**switches).float()
    draws = torch.Generator().manual_seed(4)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=draws)
    data, p = to_device(dataset(), config.network, torch.device("cpu")), dataset().pairs
    columns = p.input_offset, p.input_height, p.input_width, p.output_offset, p.output_height, p.output_width
    rows = [(task % 3, 0, *grids) for task, *grids in zip(p.task, *columns, strict=True)]
    table, budget = pad_to_budget(rows[:8], net.prefix_length, None)
    packed = pack(torch.from_numpy(table), data, net.prefix_length, budget)
    draw = BatchRandomness(hash_key(torch.tensor(3)), torch.tensor(0.5))
    noise = levels(cosine_schedule(config.noise), config.network.time_input, torch.device("cpu"))
    loss, metrics = training_loss(net, packed, noise, config, draw, StepMode(estimate=False, conditioned=False))
    return loss.detach(), metrics


@pytest.mark.parametrize("mean", ["cells", "examples"])
def test_the_training_loss_weighs_every_turn(mean):
    first, (last, metrics) = _loss(1, None, mean)[0], _loss(2, 1.0, mean)
    assert float(first) != pytest.approx(float(last), rel=1e-3)
    for share, weight in ((None, 0.5), (0.8, 0.8)):
        both, measured = _loss(2, share, mean)
        assert float(both) == pytest.approx(float(weight * last + (1 - weight) * first), rel=1e-5)
        assert torch.equal(measured[1:], metrics[1:])  # Metrics are of the answer, which is the last turn's.
