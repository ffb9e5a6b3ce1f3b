"""Forward noising against products of transition matrices and against its marginal distribution."""

import numpy as np
import pytest
import torch

from model.config.diffusion import Noise
from model.diffusion.forward import add_noise
from model.diffusion.schedule import cosine_schedule

LAB = Noise(steps=128, offset=0.008, alpha_bar_final=0.02)


def _kernel(alpha_bar):
    """10 x 10 transition matrix of a stride that keeps a cell with this probability."""
    return alpha_bar * np.eye(10) + (1 - alpha_bar) / 10


@pytest.mark.parametrize("level", [0, 31, 64, 127])
def test_the_forward_marginal_is_the_product_of_the_steps(level):
    """alpha_bar of a level gives the same marginal as multiplying every step's 10 x 10 matrix."""
    s = cosine_schedule(LAB)
    product = np.eye(10)
    for beta in s.beta[: level + 1].tolist():
        product = product @ _kernel(1 - beta)
    assert np.allclose(product, _kernel(float(s.alpha_bar[level])), atol=1e-12)


@pytest.mark.parametrize("alpha_bar", [0.98, 0.5, 0.02])
def test_the_forward_draw_has_the_marginal(alpha_bar):
    cells = 200_000
    draws = torch.rand(2, cells, generator=torch.Generator().manual_seed(1))
    noisy = add_noise(torch.full((cells,), 3), torch.tensor(alpha_bar), draws[0], draws[1])
    counts = torch.bincount(noisy, minlength=10) / cells
    expected = torch.full((10,), (1 - alpha_bar) / 10)
    expected[3] += alpha_bar
    assert (counts - expected).abs().max() < 5 * (0.25 / cells) ** 0.5
