"""The reverse process against Bayes' rule with brute-force transition matrices."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config.diffusion import Noise
from model.diffusion.reverse import argmax_reverse_step, posterior, reverse_probabilities
from model.diffusion.schedule import cosine_schedule, inference_levels, levels

LAB = Noise(steps=128, offset=0.008, alpha_bar_final=0.02)


def _kernel(alpha_bar):
    """10 x 10 transition matrix of a stride that keeps a cell with this probability."""
    return alpha_bar * np.eye(10) + (1 - alpha_bar) / 10


def _step(probabilities, alpha_bar, alpha_bar_next):
    """p(x_s | x_t), a row for every x_t, (10, 10); row k of `probabilities` (10, 10) is p(x_0 | x_t = k)."""
    a, b = (torch.full((10,), value, dtype=torch.float64) for value in (alpha_bar, alpha_bar_next))
    return reverse_probabilities(torch.from_numpy(probabilities), torch.arange(10), a, b).numpy()


@pytest.mark.parametrize("level", [1, 40, 100, 127])
def test_the_posterior_against_bayes_by_matrices(level):
    """q(x_{t-1} | x_t, p) for a mixture p of clean colours, by joint probabilities of whole 10 x 10 matrices."""
    s = cosine_schedule(LAB)
    estimate = torch.rand(50, 10, dtype=torch.float64).softmax(-1)
    noisy = torch.randint(10, (50,))
    previous, beta = s.alpha_bar[level - 1], s.beta[level]
    result = posterior(estimate, noisy, previous.expand(50), beta.expand(50))
    to_previous, step = _kernel(float(previous)), _kernel(1 - float(beta))
    for p, k, row in zip(estimate.numpy(), noisy.tolist(), result.numpy(), strict=True):
        joint = (p @ to_previous) * step[:, k]
        assert np.allclose(row, joint / joint.sum(), atol=1e-6)


def _labs_reverse_step(estimate, colour, level):
    """The rule as the ledger has it (v7 temporal), one cell, from the schedule's closed form alone."""

    def alpha_bar(t):  # 2.2; array index i stands for t = i + 1
        def r(u):
            return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

        return 0.02 + 0.98 * r(t / 128) / r(0)

    a, b = alpha_bar(level), 1 - alpha_bar(level + 1) / alpha_bar(level)
    mixed = [0.1 * (1 - a) + a * p for p in estimate]
    scores = [(1 - b) * mixed[j] if j == colour else 0.1 * b * mixed[j] for j in range(10)]
    return int(np.argmax(scores))


def test_the_argmax_reverse_step_is_the_labs_rule():
    draws = np.random.default_rng(0)
    table = levels(cosine_schedule(LAB), "log-snr", torch.device("cpu"))
    level, colour = draws.integers(1, 128, 3000), draws.integers(0, 10, 3000)
    level[:1000] = 1
    estimate = draws.dirichlet(np.full(10, 0.05), 3000)  # Nearly sure ones, which alone can move a cell.
    estimate[0], colour[0] = np.eye(10)[3], 5
    wanted = [_labs_reverse_step(*cell) for cell in zip(estimate, colour, level, strict=True)]
    logits = torch.from_numpy(np.log(np.maximum(estimate, 1e-30)))
    found = argmax_reverse_step(logits, torch.from_numpy(colour), torch.from_numpy(level), table)
    assert found.tolist() == wanted
    assert wanted[0] == 3


def test_the_argmax_reverse_step_moves_no_cell_above_level_1():
    """Ledger B3, at the extreme: all probability on another colour. At level 1 it takes 0.6."""
    table = levels(cosine_schedule(LAB), "log-snr", torch.device("cpu"))
    level, colour = torch.arange(1, 128), torch.zeros(127, dtype=torch.int64)
    sure = torch.full((127, 10), -60.0)
    sure[:, 7] = 60.0
    assert torch.equal(argmax_reverse_step(sure, colour, level, table), torch.where(level == 1, 7, 0))
    for share, moves in ((0.55, False), (0.65, True)):
        estimate = torch.full((1, 10), (1 - share) / 8)
        estimate[0, 7], estimate[0, 0] = share, 1e-30
        assert bool(argmax_reverse_step(estimate.log(), colour[:1], level[:1], table) == 7) == moves


def test_a_drawn_reverse_step_moves_cells_where_the_labs_argmax_moves_none():
    """Ledger B3: the argmax of the one-step posterior keeps every cell; drawing from it does not."""
    s = cosine_schedule(LAB)
    noisy = torch.randint(10, (20_000,), generator=torch.Generator().manual_seed(2))
    sure = torch.nn.functional.one_hot(torch.zeros_like(noisy), 10).double()
    moved = 0
    for level in (2, 64, 127):
        probabilities = posterior(
            sure, noisy, s.alpha_bar[level - 1].expand(len(noisy)), s.beta[level].expand(len(noisy))
        )
        assert torch.equal(probabilities.argmax(-1), noisy)
        drawn = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(3))[:, 0]
        moved += int((drawn != noisy).sum())
    assert moved > 500


@given(st.integers(0, 1000), st.floats(0.02, 0.97), st.floats(0.01, 1.0))
def test_a_reverse_step_is_bayes_rule_with_matrices(seed, alpha_bar, share):
    alpha_bar_next = alpha_bar + share * (0.999 - alpha_bar)
    probabilities = np.random.default_rng(seed).dirichlet(np.full(10, 0.4), size=10)
    to_next, stride, whole = _kernel(alpha_bar_next), _kernel(alpha_bar / alpha_bar_next), _kernel(alpha_bar)
    expected = np.zeros((10, 10))
    for now in range(10):
        for clean in range(10):
            given_clean = to_next[clean] * stride[:, now] / whole[clean, now]
            assert given_clean.sum() == pytest.approx(1)
            expected[now] += probabilities[now, clean] * given_clean
    assert np.allclose(_step(probabilities, alpha_bar, alpha_bar_next), expected, atol=1e-9)


@pytest.mark.parametrize("steps", [4, 8, 32])
def test_with_the_true_estimate_the_reverse_process_recovers_the_data(steps):
    """The distribution after every step is that of the data at its noise level. The unweighted step misses it."""
    data = np.random.default_rng(1).dirichlet(np.full(10, 0.3))
    alpha_bars = cosine_schedule(LAB).alpha_bar.numpy()[inference_levels(LAB.steps, steps)]
    exact = naive = data @ _kernel(alpha_bars[0])
    for alpha_bar, alpha_bar_next in pairwise(alpha_bars):
        joint = data[:, None] * _kernel(alpha_bar)
        estimate = (joint / joint.sum(0)).T
        exact = exact @ _step(estimate, alpha_bar, alpha_bar_next)
        assert np.allclose(exact, data @ _kernel(alpha_bar_next), atol=1e-9)
        beta = torch.full((10,), 1 - alpha_bar / alpha_bar_next, dtype=torch.float64)
        at = torch.full((10,), alpha_bar_next, dtype=torch.float64)
        naive = naive @ posterior(torch.from_numpy(estimate), torch.arange(10), at, beta).numpy()
    assert np.abs(naive - data @ _kernel(alpha_bars[-1])).max() > 0.01
