"""Training: the same seed the same bytes, also through interruptions; every piece against something independent."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from model.diffusion.schedule import cosine_schedule, levels
from model.network.denoiser import build
from model.network.packing import pack, pad_to_budget
from model.training import objective
from model.training.history import Diverged, TrainingError
from model.training.muon import Muon, newton_schulz
from model.training.optimizer import Average, buffer, learning_rate
from tests.conftest import ROOT, experiment
from tests.support.small_training import dataset, run, training

GOLDEN = ROOT / "tests" / "golden"


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "optimizer", [pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "muon", "normuon")]
)
def test_a_seed_decides_everything_and_a_resumed_run_equals_an_unbroken_one(optimizer):
    config = experiment(train={"optimizer": {"name": optimizer}, "evaluated_weights": "ema", "accumulation": 2}).train
    whole = run(training(config))
    assert _equal(whole.weights("ema"), run(training(config)).weights("ema"))
    assert not _equal(whole.weights("ema"), run(training(config, seed=1)).weights("ema"))
    for stop in (1, 5, 11):
        first = run(training(config), until=stop)
        tensors, plain = copy.deepcopy(first.state())
        resumed = training(config)
        resumed.restore(tensors, json.loads(json.dumps(plain)))
        run(resumed)
        assert _equal(resumed.weights("ema"), whole.weights("ema"))
        assert resumed.history == whole.history


def test_the_history_counts_every_example_once():
    config = experiment(train={"log_every": 5, "network": {"input_grid_dropout": 0.0}}).train
    subject = run(training(config))
    assert [row["step"] for row in subject.history] == [5, 10, 12]
    batches = subject.stream.batches()
    assert sum(row["grids"] for row in subject.history) == sum(len(next(batches)) for _ in range(12))


def test_a_diverged_training_ends_with_its_update():
    config = experiment(train={"optimizer": {"learning_rate": 1e30}, "warmup_steps": 0}).train
    with pytest.raises(TrainingError, match=r"update \d+: loss .*Lower train.optimizer.learning_rate"):
        run(training(config))


def test_the_loss_is_the_cross_entropy_of_the_clean_cells_by_hand():
    """No dropout, no self-conditioning: recomputed from logits of single examples with numpy."""
    off = {"dropout": 0.0, "embedding_dropout": 0.0, "input_grid_dropout": 0.0}
    config = experiment(train={"network": off, "size_loss_weight": 0.5}).train
    subject = training(config)
    torch.nn.init.normal_(subject.network.colour_head.weight)
    rows = next(subject.stream.batches())[:3]
    table, budget = pad_to_budget(rows, subject.network.prefix_length, None)
    packed = pack(torch.from_numpy(table), subject.data, subject.network.prefix_length, budget)
    draw, branch = (
        objective.BatchRandomness(torch.tensor(5), torch.tensor(0.0)),
        objective.StepMode(estimate=False, conditioned=False),
    )
    value, sums = objective.training_loss(subject.network, packed, subject.levels, config, draw, branch)

    seen = {}
    original = subject.network.denoise_turns

    def spy(packed, encoded, *rest, **options):
        (seen["logits"],) = turns = original(packed, encoded, *rest, **options)
        seen["size"] = encoded.size_logits
        return turns

    subject.network.denoise_turns = spy  # type: ignore[method-assign]
    objective.training_loss(subject.network, packed, subject.levels, config, draw, branch)
    probabilities = seen["logits"].softmax(-1).detach().numpy().astype(np.float64)
    truth = packed.target_colour.numpy()
    grid = -np.log(probabilities[np.arange(len(truth)), truth]).mean()
    size = 0.0
    for i, row in enumerate(rows):
        height, width = row[6], row[7]
        if dataset().views.element[row[1]] in (1, 3, 6, 7):
            height, width = width, height
        logs = seen["size"][i].log_softmax(-1).detach().numpy()
        size -= logs[0, height - 1] + logs[1, width - 1]
    assert float(value.detach()) == pytest.approx(grid + 0.5 * size / 3, rel=1e-5)
    named = dict(zip(objective.METRICS, sums.tolist(), strict=True))
    assert named["cells"] == len(truth)
    assert named["right"] == (probabilities.argmax(-1) == truth).sum()
    assert sum(named[f"cells_{i}"] for i in range(3)) == len(truth)


@pytest.mark.parametrize("schedule_name", ["cosine", "linear", "constant"])
def test_the_learning_rate_at_its_corners(schedule_name):
    config = experiment(
        train={
            "schedule": schedule_name,
            "optimizer_steps": 110,
            "warmup_steps": 10,
            "candidates": 2,
            "optimizer": {"learning_rate": 2.0},
        }
    ).train
    assert learning_rate(config, 0) == pytest.approx(0.02)
    assert learning_rate(config, 10) == pytest.approx(2.0)
    assert learning_rate(config, 110) == pytest.approx({"constant": 2.0}.get(schedule_name, 0.2))
    middle = {"constant": 2.0, "linear": 1.1, "cosine": 0.2 + 1.8 * (1 + math.cos(math.pi / 2)) / 2}[schedule_name]
    assert learning_rate(config, 60) == pytest.approx(middle)


def test_newton_schulz_keeps_the_singular_vectors_and_evens_the_values():
    matrices = torch.randn(3, 8, 20)
    result = newton_schulz(matrices)
    for before, after in zip(matrices, result, strict=True):
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        inner = u.T @ after @ v.T
        assert (inner - inner.diag().diag()).abs().max() < 1e-4
        assert inner.diag().min() > 0.6
        assert inner.diag().max() < 1.3


def test_muon_equals_torchs_own_on_single_matrices():
    torch.manual_seed(2)
    start = [torch.randn(12, 12), torch.randn(24, 12), torch.randn(12, 24)]
    gradients = [[torch.randn_like(w) for w in start] for _ in range(4)]
    results = []
    for ours in (True, False):
        weights = [torch.nn.Parameter(w.clone()) for w in start]
        buffer(weights, move=True)
        optimizer = (
            Muon([(w, 1) for w in weights], learning_rate=0.02, weight_decay=0.1)
            if ours
            else torch.optim.Muon(weights, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        )
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        results.append(weights)
    for a, b in zip(*results, strict=True):
        # torch's products are in bfloat16.
        assert (a - b).norm() / (b - torch.zeros_like(b)).norm() < 0.01


def test_the_average_is_the_ledgers():
    config = experiment(train={"ema": {"decay": 0.995, "warmup_steps": 4}}).train
    network = build(config, 2)
    average = Average(network, config)
    name, parameter = next(iter(network.named_parameters()))
    by_hand = None
    for update in range(8):
        with torch.no_grad():
            parameter.normal_()
        average.set_weight(update)
        average.update()
        decay = 0.99 + 0.005 * min(1.0, update / 4)
        by_hand = parameter.clone() if by_hand is None else decay * by_hand + (1 - decay) * parameter
        assert torch.allclose(dict(average.module.named_parameters())[name], by_hand, atol=1e-6)


def test_levels_hand_the_network_its_time_input():
    config = experiment().train
    table = levels(cosine_schedule(config.noise), "log-snr", torch.device("cpu"))
    assert torch.allclose(torch.sigmoid(table.time), table.alpha_bar, atol=1e-6)
    assert torch.allclose(
        levels(cosine_schedule(config.noise), "log-alpha-bar", torch.device("cpu")).time.exp(), table.alpha_bar
    )
    assert levels(cosine_schedule(config.noise), "index", torch.device("cpu")).time.tolist() == list(range(128))


@pytest.mark.parametrize("stopping", [False, True])
def test_a_loss_that_is_no_number_since_the_last_row_is_never_saved(stopping):
    subject = training(experiment(train={"log_every": 6}).train)
    saved = []

    def stop() -> bool:
        if subject.step == 2:
            subject.sums[0] = float("nan")
        return stopping and subject.step == 2

    with pytest.raises(Diverged, match="update 2: a loss or gradient norm since the last row is not finite"):
        subject.run(
            on_row=lambda _: None,
            on_candidate=lambda _: None,
            on_save=lambda: saved.append(subject.step),
            stop=stop,
            save_seconds=1e9 if stopping else 0,
        )
    assert saved == ([] if stopping else [1])


def test_it_saves_at_the_interval_and_never_without_one():
    for seconds, expected in ((0.0, list(range(1, 13))), (1e9, [])):
        saved: list[int] = []
        subject = training(experiment().train)
        subject.run(
            on_row=lambda _: None,
            on_candidate=lambda _: None,
            on_save=lambda subject=subject, saved=saved: saved.append(subject.step),
            stop=lambda: False,
            save_seconds=seconds,
        )
        assert saved == expected


def test_the_average_counts_its_updates_from_none():
    """The first value is the first network's; then the weight of the newest falls from 0.01 to 1 - decay."""
    config = experiment(train={"log_every": 1, "ema": {"decay": 0.999, "warmup_steps": 4}}).train
    subject, seen = training(config), []
    subject.run(
        on_row=lambda _: seen.append({k: v.clone() for k, v in subject.weights("raw").items()}),
        on_candidate=lambda _: None,
        on_save=lambda: None,
        stop=lambda: False,
    )
    expected = seen[0]
    for updates, weights in enumerate(seen[1:], 1):
        decay = 0.99 + 0.009 * min(1, updates / 4)
        expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    averaged = subject.weights("ema")
    moved = 0.0
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-5, atol=1e-7)
        moved = max(moved, float((value - seen[-1][name]).abs().max()))
    assert moved > 1e-4
