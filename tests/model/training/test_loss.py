"""Noise levels and the mean of the loss against their definitions."""

import numpy as np
import pytest
import torch
from scipy import stats

from model.config.training import NoiseLevels
from model.diffusion.schedule import cosine_schedule, levels
from model.network.packing import Budget
from model.training import objective
from model.training.objective import BatchRandomness, draw_levels
from tests.conftest import experiment
from tests.support.packed import ROWS, network, packed_rows

LEVELS = 128


def _levels(lowest=0, **config):
    draws = (torch.arange(200_000) + 0.5) / 200_000
    return draw_levels(draws, NoiseLevels(**{"exponent": 1.0, "pure_noise_share": 0.0} | config), lowest, LEVELS)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("lowest", [0, 1])
def test_levels_follow_a_beta_distribution(exponent, lowest):
    count = np.bincount(_levels(lowest, exponent=exponent).numpy(), minlength=LEVELS)
    edges = stats.beta(exponent, 1).cdf(np.linspace(0, 1, LEVELS - lowest + 1))
    assert count[:lowest].sum() == 0
    assert count[lowest:] / 200_000 == pytest.approx(np.diff(edges), abs=2e-5)


def test_a_share_of_the_examples_is_at_pure_noise_and_the_rest_as_before():
    found = np.bincount(_levels(exponent=2.0, pure_noise_share=0.25).numpy(), minlength=LEVELS) / 200_000
    expected = 0.75 * np.diff(np.linspace(0, 1, LEVELS + 1) ** 2)
    expected[-1] += 0.25
    assert found == pytest.approx(expected, abs=2e-5)
    assert (_levels(pure_noise_share=1.0) == LEVELS - 1).all()


def test_no_draw_leaves_the_levels():
    largest = torch.tensor([0.0, 1 - 2**-24])
    for exponent in (0.01, 1.0, 100.0):
        levels = draw_levels(largest, NoiseLevels(exponent=exponent, pure_noise_share=0.0), 1, LEVELS)
        assert levels.min() >= 1
        assert levels.max() == LEVELS - 1


@pytest.mark.parametrize("mean", ["cells", "examples", "root-cells"])
def test_the_loss_is_the_mean_that_it_says(mean):
    net = network()
    packed = packed_rows(net, ROWS)
    torch.manual_seed(0)
    cross_entropy = torch.rand(len(packed.target_colour))
    found = objective._mean(packed, cross_entropy, torch.tensor(float(len(cross_entropy))), mean)
    losses = [cross_entropy[packed.target_example == i] for i in range(len(ROWS))]
    power = {"cells": 0.0, "examples": -1.0, "root-cells": -0.5}[mean]
    weights = [len(own) ** power for own in losses]
    expected = sum(w * own.sum() for w, own in zip(weights, losses, strict=True))
    expected = expected / sum(w * len(own) for w, own in zip(weights, losses, strict=True))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("mean", ["examples", "root-cells"])
def test_padding_changes_no_loss_and_no_metric(mean):
    config = experiment(train={"loss_mean": mean, "network": {"dropout": 0.0, "input_grid_dropout": 0.0}}).train
    net = network().float()
    table = levels(cosine_schedule(config.noise), config.network.time_input, torch.device("cpu"))
    draw = BatchRandomness(torch.tensor(5), torch.tensor(1.0))
    values = []
    for budget in (None, Budget(8, 256, 192, 64, 64)):
        packed = packed_rows(net, ROWS, budget)
        noised = objective._noised(packed, table, config, draw.key)
        logits = net.denoise(packed, net.encode(packed), noised.clean, noised.time, None, None)
        sizes = net.encode(packed).size_logits
        loss, metrics = objective._measured(packed, logits, [], sizes, noised, LEVELS, 0.5, mean, None)
        values.append([float(loss.detach()), *metrics.tolist()])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert dict(zip(objective.METRICS, values[1][1:], strict=True))["grids"] == len(ROWS)
