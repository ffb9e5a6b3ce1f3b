"""The noise schedule against the version ledger's reference values."""

import pytest
import torch

from model.config.diffusion import Noise
from model.diffusion.schedule import cosine_schedule, inference_levels

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
    s = cosine_schedule(LAB)
    assert float(s.alpha_bar[index]) == pytest.approx(alpha_bar, abs=6e-4)
    assert float(s.beta[index]) == pytest.approx(beta, abs=6e-5)
    assert float(s.log_snr[index]) == pytest.approx(log_snr, abs=6e-3)


def test_end_points_and_order():
    s = cosine_schedule(LAB)
    assert float(s.alpha_bar[-1]) == pytest.approx(0.02)
    assert float(s.alpha_bar[0]) == pytest.approx(0.99956, abs=5e-6)
    assert (s.alpha_bar.diff() < 0).all()
    assert int(s.beta.argmax()) == 116
    assert float(s.beta.max()) == pytest.approx(0.0809, abs=5e-5)
    assert torch.allclose(torch.cumprod(1 - s.beta, 0), s.alpha_bar)


def test_inference_levels_are_the_ledgers():
    levels = inference_levels(128, 32)
    assert levels[:3] == [127, 123, 119]
    assert levels[-2:] == [4, 0]
    assert len(levels) == 32
    assert inference_levels(128, 128) == list(range(127, -1, -1))
    assert inference_levels(128, 1) == [127]
    assert inference_levels(128, 32, "raw-index") == list(range(31, -1, -1))
