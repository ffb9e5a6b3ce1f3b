"""The noise against the ledger's reference values, simulation, and brute-force transition matrices."""

import numpy as np
import pytest
import torch

from model.config.experiment import Noise
from model.diffusion.schedule import add_noise, inference_levels, posterior, schedule

LAB = Noise(steps=128, offset=0.008, alpha_bar_final=0.02)


@pytest.mark.parametrize(
    ("index", "alpha_bar", "beta", "log_snr"),
    [
        (0, 0.9996, 0.0004, 7.72),
        (8, 0.986, 0.0028, 4.23),
        (31, 0.850, 0.0099, 1.73),
        (64, 0.492, 0.0237, -0.03),
        (96, 0.153, 0.0513, -1.71),
        (120, 0.027, 0.0740, -3.58),
        (127, 0.020, 0.0072, -3.89),
    ],
)
def test_reference_values_of_the_ledger(index, alpha_bar, beta, log_snr):
    s = schedule(LAB)
    assert float(s.alpha_bar[index]) == pytest.approx(alpha_bar, abs=6e-4)
    assert float(s.beta[index]) == pytest.approx(beta, abs=6e-5)
    assert float(s.log_snr[index]) == pytest.approx(log_snr, abs=6e-3)


def test_end_points_and_order():
    s = schedule(LAB)
    assert float(s.alpha_bar[-1]) == pytest.approx(0.02)
    assert float(s.alpha_bar[0]) == pytest.approx(0.99956, abs=5e-6)
    assert (s.alpha_bar.diff() < 0).all()
    assert int(s.beta.argmax()) == 116
    assert float(s.beta.max()) == pytest.approx(0.0809, abs=5e-5)
    assert torch.allclose(torch.cumprod(1 - s.beta, 0), s.alpha_bar)


def _kernel(beta):
    return (1 - beta) * np.eye(10) + beta * np.full((10, 10), 0.1)


@pytest.mark.parametrize("level", [0, 31, 64, 127])
def test_the_forward_marginal_is_the_product_of_the_steps(level):
    """alpha_bar of a level gives the same marginal as multiplying every step's 10 x 10 matrix."""
    s = schedule(LAB)
    product = np.eye(10)
    for beta in s.beta[: level + 1].tolist():
        product = product @ _kernel(beta)
    assert np.allclose(product, _kernel(1 - float(s.alpha_bar[level])), atol=1e-12)


@pytest.mark.parametrize("alpha_bar", [0.98, 0.5, 0.02])
def test_the_forward_draw_has_the_marginal(alpha_bar):
    cells = 200_000
    draws = torch.rand(2, cells, generator=torch.Generator().manual_seed(1))
    noisy = add_noise(torch.full((cells,), 3), torch.tensor(alpha_bar), draws[0], draws[1])
    counts = torch.bincount(noisy, minlength=10) / cells
    expected = torch.full((10,), (1 - alpha_bar) / 10)
    expected[3] += alpha_bar
    assert (counts - expected).abs().max() < 5 * (0.25 / cells) ** 0.5


@pytest.mark.parametrize("level", [1, 40, 100, 127])
def test_the_posterior_against_bayes_by_matrices(level):
    """q(x_{t-1} | x_t, p) for a mixture p of clean colours, by joint probabilities of whole 10 x 10 matrices."""
    s = schedule(LAB)
    estimate = torch.rand(50, 10, dtype=torch.float64).softmax(-1)
    noisy = torch.randint(10, (50,))
    previous, beta = s.alpha_bar[level - 1], s.beta[level]
    result = posterior(estimate, noisy, previous.expand(50), beta.expand(50))
    to_previous, step = _kernel(1 - float(previous)), _kernel(float(beta))
    for p, k, row in zip(estimate.numpy(), noisy.tolist(), result.numpy(), strict=True):
        joint = (p @ to_previous) * step[:, k]
        assert np.allclose(row, joint / joint.sum(), atol=1e-6)


def test_a_drawn_reverse_step_moves_cells_where_the_labs_argmax_moves_none():
    """Ledger B3: the argmax of the one-step posterior keeps every cell; drawing from it does not."""
    s = schedule(LAB)
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


def test_inference_levels_are_the_ledgers():
    levels = inference_levels(128, 32)
    assert levels[:3] == [127, 123, 119]
    assert levels[-2:] == [4, 0]
    assert len(levels) == 32
    assert inference_levels(128, 128) == list(range(127, -1, -1))
    assert inference_levels(128, 1) == [127]
    assert inference_levels(128, 32, "raw-index") == list(range(31, -1, -1))
