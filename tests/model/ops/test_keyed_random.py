import numpy as np
import pytest
import torch
from scipy import stats

from model.ops.keyed_random import categorical, hash_key, uniform
from model.ops.random_purposes import ProbeDraw, TrainingDraw


def test_draws_are_uniform_and_uncorrelated_along_every_part_of_the_key():
    draws = uniform(7, torch.arange(300)[:, None], torch.arange(300)[None]).numpy()
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.01
    for a, b in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1])):
        assert abs(stats.pearsonr(a.ravel(), b.ravel()).statistic) < 0.015


def test_nearby_seeds_share_nothing():
    index = torch.arange(100_000)
    a, b = uniform(0, index).numpy(), uniform(1, index).numpy()
    assert abs(stats.pearsonr(a, b).statistic) < 0.015
    assert not (a == b).mean() > 1e-4


def test_a_draw_depends_on_its_key_alone():
    whole = uniform(3, torch.arange(1000), 5)
    assert torch.equal(whole[400:500], uniform(3, torch.arange(400, 500), 5))
    assert not torch.equal(hash_key(1, torch.tensor(2)), hash_key(2, torch.tensor(1)))


def test_the_hash_is_the_same_for_ever():
    """Stored once: a changed mixer would silently change every published prediction."""
    assert hash_key(torch.tensor([0, 1, 2]), 9).tolist() == STORED


STORED = [3256576115, 2108032100, 2348812839]


def test_a_categorical_draw_has_its_probabilities():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0, 0, 0, 0, 0]).expand(200_000, 10)
    frequencies = np.bincount(categorical(probabilities, torch.rand(200_000)).numpy(), minlength=10) / 200_000
    assert frequencies == pytest.approx(probabilities[0].numpy(), abs=0.005)
    assert frequencies[0] == frequencies[2] == frequencies[9] == 0
    assert categorical(probabilities[:2], torch.tensor([0.0, 0.49999])).tolist() == [1, 1]


def test_draws_of_training_and_probes_share_no_purpose():
    assert not {int(purpose) for purpose in TrainingDraw} & {int(purpose) for purpose in ProbeDraw}
