"""What crosses from the predictor to the denoising: keys, sizes and their probabilities."""

from itertools import product

import numpy as np
import pytest
import torch

from model.inference import predictor as prediction
from model.inference.denoising import denoise
from model.inference.predictor import Predictor
from model.inference.sizes import split_sizes
from model.puzzles.arrays import Dataset, Pairs
from tests.support.oracle import TWICE, Oracle, evaluation, packed_dataset, votes
from tests.support.small_experiment import build, save_checkpoint


def _keys(monkeypatch, description, dataset, seed=0, **changes):
    """Key of every (pair, view, attempt), as the denoising received it."""
    keys = {}
    queries = []
    whole = Predictor._denoise

    def spy(network, packed, table, conditioning, config, key):
        keys.update(dict(zip(queries, key.tolist(), strict=True)))
        return denoise(network, packed, table, conditioning, config, key)

    def remember(self, asked, *rest):
        queries[:] = asked
        return whole(self, asked, *rest)

    monkeypatch.setattr(prediction, "denoise", spy)
    monkeypatch.setattr(Predictor, "_denoise", remember)
    names = [f"{i:08x}" for i in range(len(dataset.views.count))]
    predictor = Predictor(Oracle(dataset), description, dataset, names, seed, torch.device("cpu"))
    list(predictor.answer(evaluation(**changes)))
    monkeypatch.undo()
    return keys


@pytest.fixture
def description(workspace):
    return save_checkpoint(build())


def _two_tests_of_a_task():
    data = packed_dataset(views=8)
    p = data.pairs
    rows = [0, 0, 1]
    twice = {n: getattr(p, n)[rows] for n in Pairs.__dataclass_fields__} | {"number": np.array([0, 1, 0])}
    return Dataset(data.cells, Pairs(**twice), data.views)


def test_no_two_answers_share_their_draws(monkeypatch, workspace, description):
    monkeypatch.chdir(workspace)
    data = _two_tests_of_a_task()
    voting = _keys(monkeypatch, description, data, answers=votes(8))
    assert set(voting) == set(product(range(3), range(8), [0]))
    assert len(set(voting.values())) == 24
    attempts = _keys(monkeypatch, description, data, answers=TWICE)
    assert set(attempts) == set(product(range(3), [0], [0, 1]))
    assert len(set(attempts.values())) == 6
    other = _keys(monkeypatch, description, data, seed=1, answers=votes(8))
    assert not set(other.values()) & set(voting.values())


def test_the_size_has_the_probability_of_its_own_height_and_width(description):
    data = packed_dataset()
    names = [f"{i:08x}" for i in range(2)]
    answers = Predictor(Oracle(data), description, data, names, 0, torch.device("cpu")).answer(evaluation())
    # 9 for the side, -9 for the 29 others.
    expected = -2 * np.log1p(29 * np.exp(-18.0))
    assert [a.size_log_probability for a in answers] == pytest.approx([expected] * 144, abs=1e-6)


def test_a_split_looks_up_heights_as_heights_and_widths_as_widths():
    draws = np.random.default_rng(3)
    for _ in range(200):
        confidence = np.log(draws.dirichlet(np.ones(30), size=(9, 2)))
        first, second, third = ((int(h), int(w)) for h, w in draws.permutation(30)[:6].reshape(3, 2) + 1)
        sizes = [first] * 4 + [second] * 3 + [third] * 2
        expected = sizes[:7]
        for view in (7, 8):
            chances = {s: confidence[view][0][s[0] - 1] + confidence[view][1][s[1] - 1] for s in (first, second)}
            expected.append(first if chances[first] >= chances[second] else second)
        assert split_sizes(sizes, confidence) == expected
