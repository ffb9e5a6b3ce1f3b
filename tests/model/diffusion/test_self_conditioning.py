"""Self-conditioning: strength, features and the coins of training, against the ledger's rules."""

import numpy as np
import pytest
import torch

from model.diffusion import self_conditioning
from tests.conftest import experiment
from tests.support.small_training import training


def test_the_gain_is_the_ledgers():
    config = experiment().train.self_conditioning
    progress = config.model_copy(update={"gain": "progress"})
    alpha_bar = torch.tensor([0.0, 0.5, 1.0])
    assert self_conditioning.gain(config, alpha_bar, 0.9).tolist() == pytest.approx([0.3, 0.65, 1.0])
    assert self_conditioning.gain(progress, alpha_bar, 0.5).tolist() == pytest.approx([0.65] * 3)


@pytest.mark.parametrize(("step", "strength"), [(0, 0.3), (250, 0.51875), (500, 0.7375), (800, 1.0), (999, 1.0)])
def test_the_gain_of_v0_and_v1_is_full_after_80_percent_of_training(monkeypatch, step, strength):
    """0.3 + 0.7 min(1, step / (0.8 steps)), the lab's 587f399c training:194, as the updates themselves receive it."""
    config = experiment(version="v1", train={"optimizer_steps": 1000, "warmup_steps": 4}).train
    subject = training(config)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(subject, "add_gradient", lambda table, key, progress, *_: seen.append(progress))
    subject.step = step
    subject.update([next(subject.stream.batches())])
    gain = self_conditioning.gain(config.self_conditioning, torch.tensor([0.1, 0.9]), seen[0])
    assert gain.tolist() == pytest.approx([strength] * 2)


def test_every_micro_batch_tosses_its_own_coin_of_self_conditioning():
    """The lab's 7779c5e4 training:281. One of `accumulation` 1 is that of the update."""
    updates, parts = 300, 4
    many = training(experiment(train={"accumulation": parts, "optimizer_steps": 1000}).train)
    coins = np.zeros((updates, parts), dtype=bool)
    for many.step in range(updates):
        coins[many.step] = [many.step_mode(micro).estimate for micro in range(parts)]
    rate = many.config.self_conditioning.rate
    assert coins.mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / coins.size) ** 0.5)
    alike = (coins[:, :1] == coins).all(1).mean()
    assert alike == pytest.approx(rate**parts + (1 - rate) ** parts, abs=0.08)


def test_log_probabilities_are_tempered_and_centred():
    config = experiment(
        train={"self_conditioning": {"features": "log-probabilities", "temperature": 1.5}}
    ).train.self_conditioning
    logits = torch.randn(7, 10, dtype=torch.float64)
    features = self_conditioning.features(config, logits).double()
    assert torch.allclose(features, logits / 1.5 - (logits / 1.5).mean(-1, keepdim=True), atol=1e-5)
