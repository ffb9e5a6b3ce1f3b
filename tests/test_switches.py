"""Every switch of a version changes what it claims to change, and only that."""

import numpy as np
import pytest
import torch

from model import loss, self_conditioning
from model.checkpoints import build
from model.corpus import task_rows
from model.packing import fill, pack
from model.random import hash_key
from model.training import Training
from tests.conftest import experiment
from tests.test_training import dataset

HOW = "self_conditioning"


def _training(steps=6, **train):
    values = {"optimizer_steps": steps, "warmup_steps": 2, "log_every": 1, **train}
    config = experiment(train=values).train
    data = dataset()
    weight = np.ones(len(data.pairs))
    rows = task_rows(config.network, data.views)
    subject = Training(data, weight, rows, config, 0, torch.device("cpu"))
    subject.run(on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=lambda: False)
    return subject


def _losses(**train):
    return [row["loss"] for row in _training(**train).history]


def _equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_evaluated_weights_change_what_is_kept_and_nothing_of_the_training():
    raw, ema = _training(), _training(evaluated_weights="ema")
    assert raw.history == ema.history
    assert _equal(raw.network.state_dict(), ema.network.state_dict())
    assert _equal(raw.weights(), ema.network.state_dict())
    assert not _equal(raw.weights(), ema.weights())


def test_the_schedule_changes_the_rate_after_the_warm_up_alone():
    cosine, constant = _training().history, _training(schedule="constant").history
    # Update 3, the first after the warm-up, is at the peak under both.
    assert cosine[:3] == constant[:3]
    assert constant[3]["learning_rate"] == constant[5]["learning_rate"] > cosine[3]["learning_rate"]
    assert cosine[3]["loss"] == constant[3]["loss"]
    assert cosine[5]["loss"] != constant[5]["loss"]


@pytest.mark.parametrize("projection", ["linear", "mlp", "gated-norm"])
def test_the_projection_changes_its_own_weights_alone(projection):
    here, linear = (
        build(experiment(train={HOW: {"projection": name}}).train, 3).state_dict() for name in (projection, "linear")
    )
    own = {name for name in here if name.startswith("self_conditioning.")}
    assert own
    assert set(here) - own == {name for name in linear if not name.startswith("self_conditioning.")}
    assert all(here[name].shape == linear[name].shape for name in set(here) - own)


@pytest.mark.parametrize(
    ("switch", "acts"),
    [
        ({HOW: {"gain": "progress"}}, True),
        ({HOW: {"features": "log-probabilities"}}, True),
        ({HOW: {"rate": 0.0, "zeros_rate": 0.0}}, True),
        ({HOW: {"training": "reverse-step"}}, True),
        ({HOW: {"training": "blend"}}, True),
        ({HOW: {"inference": "two-pass"}}, False),
        ({HOW: {"temperature": 2.0}}, False),  # of the log-probabilities; here are probabilities
        ({"network": {"time_input": "index"}}, True),
        ({"network": {"time_input": "log-alpha-bar"}}, True),
        ({"network": {"conditioning": "task"}}, True),
        ({"pixel_noise_rate": 1.0, "pixel_noise_share": 0.5}, True),
        ({"pixel_noise_rate": 1.0}, False),  # a share of none
        ({"candidates": 6}, False),
        ({"ema_decay": 0.999}, False),
        ({"optimizer": "muon"}, True),
        ({"accumulation": 2}, True),
        ({"weight_decay": 0.5}, True),
        ({"gradient_clip": 0.01}, True),
        ({"size_loss_weight": 1.0}, True),
    ],
)
def test_a_switch_of_the_training_acts_on_it_if_it_claims_to(switch, acts):
    assert (_losses(**switch) != _losses()) == acts


def test_without_features_nothing_else_of_self_conditioning_matters():
    off = {"features": "none", "rate": 0.0, "zeros_rate": 0.0}
    before = _losses(**{HOW: off})
    for other in ({"projection": "mlp"}, {"gain": "progress"}, {"inference": "two-pass"}, {"temperature": 3.0}):
        assert _losses(**{HOW: off | other}) == before


def test_updates_are_counted_whatever_the_accumulation():
    one, two = _training(), _training(accumulation=2)
    assert one.step == two.step == 6
    assert [row["step"] for row in two.history] == [1, 2, 3, 4, 5, 6]
    batches = two.stream.batches()
    examples = [len(next(batches)) for _ in range(12)]
    shown = sum(row["grids"] for row in two.history)
    assert 0.8 * sum(examples) <= shown <= sum(examples)  # The hidden inputs do not count.


def _recoloured(rate, share):
    """Of every example with black input cells, the share of them that pixel noise recolours, over many batches."""
    config = experiment(train={"pixel_noise_rate": rate, "pixel_noise_share": share}).train
    subject = _training()
    batches, found = subject.stream.batches(), []
    for i in range(60):
        table, budget = fill(next(batches), subject.network.prefix_length, None)
        packed = pack(torch.from_numpy(table), subject.corpus, subject.network.prefix_length, budget)
        noisy = loss.pixel_noise(packed, config, hash_key(torch.tensor(i)))
        changed, black = noisy.context_colour != packed.context_colour, packed.context_colour == 0
        assert black[changed].all()
        assert ((noisy.context_colour[changed] >= 1) & (noisy.context_colour[changed] <= 9)).all()
        assert torch.equal(noisy.target_colour, packed.target_colour)
        count = table.shape[1]
        of = packed.context_example
        all_, hit = of[black].bincount(minlength=count), of[changed].bincount(minlength=count)
        found += [(int(h), int(a)) for h, a in zip(hit, all_, strict=True) if a]
    return np.array(found)


def test_pixel_noise_recolours_its_share_of_black_cells_in_its_share_of_examples():
    everywhere = _recoloured(1.0, 0.25)
    assert everywhere[:, 0].sum() / everywhere[:, 1].sum() == pytest.approx(0.25, abs=0.05)
    whole = _recoloured(0.5, 1.0)
    assert set(np.unique(whole[:, 0] / whole[:, 1])) == {0.0, 1.0}
    assert (whole[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_the_gain_is_the_ledgers():
    config = experiment().train.self_conditioning
    progress = config.model_copy(update={"gain": "progress"})
    alpha_bar = torch.tensor([0.0, 0.5, 1.0])
    assert self_conditioning.gain(config, alpha_bar, 0.9).tolist() == pytest.approx([0.3, 0.65, 1.0])
    assert self_conditioning.gain(progress, alpha_bar, 0.5).tolist() == pytest.approx([0.65] * 3)


def test_log_probabilities_are_tempered_and_centred():
    config = experiment(train={HOW: {"features": "log-probabilities", "temperature": 1.5}}).train.self_conditioning
    logits = torch.randn(7, 10, dtype=torch.float64)
    found = self_conditioning.features(config, logits).double()
    assert torch.allclose(found, logits / 1.5 - (logits / 1.5).mean(-1, keepdim=True), atol=1e-5)
