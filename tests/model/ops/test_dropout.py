"""Dropout: its rate, the independence of masks, and the same mask in backward."""

from typing import Any

import numpy as np
import pytest
import torch

from model.ops.dropout import dropout, seeds

KEY = torch.tensor(12345)


def _masks(count, shape=(64, 96), rate=0.3):
    return [dropout(torch.ones(shape), rate, seed) == 0 for seed in seeds(KEY, count)]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_the_rate_is_that_of_the_configuration_and_the_mean_is_kept(rate):
    result = dropout(torch.ones(2000, 500), rate, seeds(KEY, 1)[0])
    dropped = float((result == 0).double().mean())
    error = (rate * (1 - rate) / 1e6) ** 0.5
    assert abs(dropped - rate) < 4 * error
    assert result.max() == pytest.approx(1 / (1 - rate))


def test_rows_columns_neighbours_and_masks_of_other_seeds_are_independent():
    """Against binomial distributions, within five standard errors."""
    masks = torch.stack(_masks(200)).double() - 0.3
    one = 0.3 * 0.7
    for axis in (0, 1, 2):
        for lag in (1, 2, 16, 32):
            if lag < masks.shape[axis]:
                a, b = masks.narrow(axis, lag, masks.shape[axis] - lag), masks.narrow(axis, 0, masks.shape[axis] - lag)
                assert abs(float((a * b).mean())) < 5 * one / a.numel() ** 0.5, (axis, lag)
    for axis in (0, 1, 2):
        means = masks.mean(axis)
        deviation = float(means.std() / (one / masks.shape[axis]) ** 0.5)
        assert deviation == pytest.approx(1, abs=0.05), axis


def test_no_mask_is_a_permutation_of_another():
    """If the seed were only mixed into the index, seeds that differ in low bits would give permuted masks."""
    low = [dropout(torch.ones(1 << 14), 0.5, torch.tensor(s, dtype=torch.int32)) == 0 for s in range(8)]
    index = torch.arange(1 << 14)
    for s in range(1, 8):
        assert (low[0][index ^ s] == low[s]).double().mean() < 0.55
        assert (low[0] == low[s]).double().mean() == pytest.approx(0.5, abs=0.02)


def test_the_gradient_uses_the_mask_of_the_forward_pass():
    x = torch.randn(30, 40, requires_grad=True)
    result = dropout(x, 0.25, seeds(KEY, 3)[2])
    (gradient,) = torch.autograd.grad(result.sum(), x)
    kept = (result != 0).detach()
    assert torch.equal(gradient, torch.where(kept, 1 / 0.75, 0.0))
    assert torch.allclose(result[kept], x[kept] / 0.75)


def test_a_mask_equals_the_hash_computed_by_numpy():
    """Recomputed in unsigned arithmetic."""
    seed = np.full(1, 0xDEADBEEF, dtype=np.uint32)
    h: Any = np.arange(5000, dtype=np.uint32) ^ seed
    h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D) + seed * np.uint32(0x9E3779B1)
    h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
    expected = ((h ^ (h >> 16)) >> 8) < round(0.1 * (1 << 24))
    ours = dropout(torch.ones(50, 100), 0.1, torch.from_numpy(seed.astype(np.int32))[0]) == 0
    assert np.array_equal(ours.flatten().numpy(), expected)


def test_without_a_seed_or_a_rate_nothing_is_dropped():
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, seeds(KEY, 1)[0]) is x
