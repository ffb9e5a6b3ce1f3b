"""The objective and the optimiser's pieces on numbers small enough to be told by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.config.training import NoiseLevels
from model.diffusion.schedule import cosine_schedule, levels
from model.network.denoiser import build
from model.ops.keyed_random import hash_key
from model.training import objective
from model.training.history import history_row
from model.training.muon import Muon
from model.training.objective import METRICS, BatchRandomness, Noised, StepMode, mean_over_turns, size_loss
from model.training.optimizer import Average, buffer, clip, learning_rate, optimizers
from tests.conftest import experiment


def test_the_loss_of_several_turns_is_a_weighted_mean() -> None:
    one, two, three = (torch.tensor(value) for value in (1.0, 5.0, 9.0))
    for losses, share, mean in (
        ([three], None, 9.0),
        ([three], 0.5, 9.0),
        ([one, two, three], None, 5.0),
        ([one, two, three], 0.5, 4.5 + 1.5),
        ([one, two, three], 0.0, 3.0),
        ([two, three], 0.75, 6.75 + 1.25),
    ):
        assert float(mean_over_turns(losses, share)) == pytest.approx(mean)


def _log_softmax(row: Any) -> Any:
    return row - np.log(np.exp(row).sum())


def test_sizes_are_in_the_frame_of_their_view_and_hidden_ones_do_not_count() -> None:
    """Three examples of 2 x 5, 2 x 5 seen transposed, and 31 x 0, which no grid is."""
    packed: Any = SimpleNamespace(
        examples=SimpleNamespace(output_height=torch.tensor([2, 2, 31]), output_width=torch.tensor([5, 5, 0])),
        view_swaps=torch.tensor([False, True, False]),
    )
    logits = torch.randn(3, 2, 30)
    logits[0, 0, 1] = logits[0, 1, 4] = logits[1, 0, 4] = logits[1, 1, 0] = logits[2, 0, 29] = logits[2, 1, 0] = 9.0
    rows = [[_log_softmax(side) for side in example] for example in logits.double().numpy()]
    losses = [-rows[0][0][1] - rows[0][1][4], -rows[1][0][4] - rows[1][1][1], -rows[2][0][29] - rows[2][1][0]]
    for counted, right in (([True, True, True], 2), ([True, True, False], 1), ([False, True, False], 0)):
        total, hits, count = size_loss(packed, logits, torch.tensor(counted))
        assert float(total) == pytest.approx(sum(x for x, yes in zip(losses, counted, strict=True) if yes), rel=1e-5)
        assert (int(hits), int(count)) == (right, sum(counted))


def test_each_metric_of_a_batch_by_hand() -> None:
    """Six cells of which one is padding, at levels of all three buckets; the third example is padding too."""
    clean, level = torch.tensor([3, 1, 4, 1, 5, 9]), torch.tensor([0, 3, 4, 7, 8, 11])
    example = torch.tensor([0, 0, 0, 1, 1, 2])
    packed: Any = SimpleNamespace(
        target_real=torch.tensor([True, True, True, True, True, False]),
        target_example=example,
        examples=SimpleNamespace(
            real=torch.tensor([1, 1, 0]), output_height=torch.tensor([3, 1, 1]), output_width=torch.tensor([1, 2, 1])
        ),
        view_swaps=torch.zeros(3, dtype=torch.bool),
    )
    logits, sizes, earlier = torch.randn(6, 10), torch.randn(3, 2, 30), torch.randn(6, 10)
    for cell in (0, 3, 4, 5):
        logits[cell, clean[cell]] = 9.0
    noised = Noised(torch.tensor([False, True, False]), level, torch.zeros(6), clean, clean)
    loss, found = objective._measured(packed, logits, [earlier], sizes, noised, 12, 0.25, "cells", 0.75)
    named = dict(zip(METRICS, found.tolist(), strict=True))

    def cells(rows: Any) -> list[float]:
        return [-_log_softmax(row)[colour] for row, colour in zip(rows.double().numpy(), clean.tolist(), strict=True)]

    last, first, size = cells(logits)[:5], cells(earlier)[:5], sizes.double().numpy()[0]
    size_loss_ = -_log_softmax(size[0])[2] - _log_softmax(size[1])[0]
    expected = {
        "loss": 0.75 * sum(last) / 5 + 0.25 * sum(first) / 5 + 0.25 * size_loss_,
        "batches": 1.0,
        "cells": 5.0,
        "cross_entropy": sum(last),
        "right": 3.0,
        "grids": 1.0,
        "size_cross_entropy": size_loss_,
        "size_right": float(size[0].argmax() == 2 and size[1].argmax() == 0),
        **{f"cells_{i}": n for i, n in enumerate((2.0, 2.0, 1.0))},
        **{f"cross_entropy_{i}": sum(last[a:b]) for i, (a, b) in enumerate(((0, 2), (2, 4), (4, 5)))},
        **{f"right_{i}": 1.0 for i in range(3)},
    }
    # Likely cells: float32 rounds a logarithm of 9 to 1e-6, in another way on each processor.
    assert named == pytest.approx(expected, rel=1e-5, abs=2e-6)
    assert float(loss) == pytest.approx(expected["loss"], rel=1e-5)


class Network:
    """Answers what it is told to, and notes what it is asked."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits
        self.asked: list[Any] = []

    def denoise(self, *given: Any) -> Any:
        assert not torch.is_grad_enabled(), "an estimate is not learned through"
        self.asked.append(given)
        return self.logits


@pytest.mark.parametrize(
    ("training", "features", "estimate", "conditioned", "told", "level"),
    [
        ("same-step", "probabilities", False, False, None, 0),
        ("same-step", "probabilities", False, True, 0.0, 0),
        ("same-step", "none", False, True, None, 0),
        ("same-step", "probabilities", True, True, 1.0, 0),
        ("same-step", "probabilities", True, False, None, 0),
        ("same-step", "none", True, True, None, 0),
        ("reverse-step", "probabilities", True, True, 1.0, -1),
        ("reverse-step", "probabilities", True, False, None, -1),
        ("argmax-reverse-step", "probabilities", True, True, 1.0, -1),
        ("argmax-reverse-step", "probabilities", True, False, None, -1),
        ("blend", "none", True, False, None, 0),
        ("blend", "none", False, False, None, 0),
    ],
)
def test_what_the_pass_with_gradients_begins_with(
    training: Any, features: Any, estimate: bool, conditioned: bool, told: float | None, level: int
) -> None:
    """A network that is certain of the clean cells: a step back is drawn from, or at most of, the true posterior."""
    now = 60 if training == "blend" else 5
    given = experiment().train
    conditioning = given.self_conditioning.model_copy(update={"training": training, "features": features})
    config = given.model_copy(update={"self_conditioning": conditioning})
    table = levels(cosine_schedule(config.noise), "log-snr", torch.device("cpu"))
    clean, wrong = torch.arange(4000) % 10, (torch.arange(4000) + 1) % 10
    network: Any = Network(torch.nn.functional.one_hot(clean, 10) * 60.0)
    packed: Any = SimpleNamespace(target_example=torch.arange(4000) // 1000)
    at = torch.full((4000,), now)
    noised = Noised(torch.zeros(4, dtype=torch.bool), at, table.time[at], clean, wrong)
    draw = BatchRandomness(hash_key(torch.tensor(1)), torch.tensor(1.0))
    encoded: Any = SimpleNamespace(detached=lambda: "detached")
    seen, noisy, levels_ = objective._first_pass(
        network, packed, encoded, table, config, draw, StepMode(estimate, conditioned), noised, torch.zeros(2)
    )
    assert levels_.tolist() == [now + level] * 4000
    if told is None:
        assert seen is None
    else:
        truth = torch.nn.functional.one_hot(clean, 10).float()
        torch.testing.assert_close(seen, told * truth)
    right = float((noisy == clean).double().mean())
    kept, before = table.alpha_bar[now] / table.alpha_bar[now - 1], table.alpha_bar[now - 1]
    # Of the ten values one step before: the clean one, the wrong one seen now, and the eight others.
    worth = [(1 - kept) / 10 * (before + (1 - before) / 10), (kept + (1 - kept) / 10) * (1 - before) / 10]
    worth.append((1 - kept) / 10 * (1 - before) / 10 * 8)
    share = float(worth[0] / sum(worth))
    level_alpha = float(table.alpha_bar[now])
    if not estimate or training in ("same-step", "argmax-reverse-step"):
        assert torch.equal(noisy, wrong), "the wrong one is likelier than the clean one"
    elif training == "reverse-step":
        assert 0.2 < share < 0.3, "neither is certain"
        assert right == pytest.approx(share, abs=0.04)
    else:  # A blend is truth or estimate, which are the same here, and is noised again.
        assert right == pytest.approx(level_alpha + (1 - level_alpha) / 10, abs=0.04)
    assert len(network.asked) == estimate
    if estimate:
        (_, context, grid, time, first, gain, _seeds) = network.asked[0]
        assert (context, grid is wrong, first, gain) == ("detached", True, None, None)
        assert torch.equal(time, noised.time)


def test_levels_of_a_few_draws() -> None:
    draws = torch.tensor([0.0, 0.25, 0.49, 0.5, 0.75, 0.99])
    plain = NoiseLevels(exponent=1.0, pure_noise_share=0.0)
    assert objective.draw_levels(draws, plain, 0, 4).tolist() == [0, 1, 1, 2, 3, 3]
    assert objective.draw_levels(draws, plain, 1, 5).tolist() == [1, 2, 2, 3, 4, 4]
    half = NoiseLevels(exponent=1.0, pure_noise_share=0.5)
    assert objective.draw_levels(draws, half, 0, 4).tolist() == [3, 3, 3, 0, 2, 3]
    root = NoiseLevels(exponent=2.0, pure_noise_share=0.0)
    assert objective.draw_levels(draws, root, 0, 4).tolist() == [0, 2, 2, 2, 3, 3]


def test_a_buffer_has_its_views_at_multiples_of_64_and_those_of_a_shape_beside_each_other() -> None:
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((1,), (8, 8), (5, 13), (2,), (8, 8))]
    before = [p.detach().clone() for p in parameters]
    whole, parts = buffer(parameters)
    assert whole.tolist() == [0.0] * 384
    assert [part.storage_offset() for part in parts] == [0, 256, 128, 64, 320], "by shape"
    assert [part.shape for part in parts] == [p.shape for p in parameters]
    parts[2].fill_(7.0)
    assert whole.tolist() == [0.0] * 128 + [7.0] * 65 + [0.0] * 191
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    whole, parts = buffer(parameters, move=True)
    whole *= 2
    assert all(torch.equal(p, 2 * old) for p, old in zip(parameters, before, strict=True)), "their new home"
    assert len(buffer(parameters[:1])[0]) == 64


def test_gradients_are_clipped_to_a_norm() -> None:
    for most, expected in ((1.0, [0.6, 0.8]), (5.1, [3.0, 4.0]), (10.0, [3.0, 4.0])):
        gradient = torch.tensor([3.0, 4.0])
        assert float(clip(gradient, most)) == 5.0
        assert gradient.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_rate_in_the_warm_up_and_without_anything_after_it() -> None:
    how = {"optimizer_steps": 8, "warmup_steps": 8, "candidates": 2, "log_every": 4, "schedule": "linear"}
    config = experiment(train={**how, "optimizer": {"learning_rate": 3.0}}).train
    found = [learning_rate(config, step) for step in (0, 2, 4, 7, 8)]
    assert found == pytest.approx([0.03, 0.03 + 2.97 / 4, 0.03 + 2.97 / 2, 0.03 + 2.97 * 7 / 8, 3.0])


def test_the_weight_of_the_newest_value_of_an_average() -> None:
    for warm_up, weights in ((0, [1.0, 0.002, 0.002]), (4, [1.0, 0.008, 0.006, 0.004, 0.002, 0.002])):
        config = experiment(train={"ema": {"decay": 0.998, "warmup_steps": warm_up}}).train
        average: Any = object.__new__(Average)
        average.config, average.weight = config, torch.zeros(())
        for updates, weight in enumerate(weights):
            average.set_weight(updates)
            assert float(average.weight) == pytest.approx(weight, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon", "normuon"])
def test_the_blocks_matrices_are_muons_in_their_pieces(name: str) -> None:
    config = experiment(train={"optimizer": {"name": name, "learning_rate": 0.5, "weight_decay": 0.25}}).train
    network = build(config, 3)
    network.blocks[0].attention_out.weight.requires_grad_(False)
    names = {id(p): key for key, p in network.named_parameters()}
    trained = {key for key, p in network.named_parameters() if p.requires_grad}
    *muons, adamw = optimizers(network, config)
    kinds: dict[int, set[str]] = {}
    for muon in muons:
        assert isinstance(muon, Muon)
        assert {group["by_neuron"] for group in muon.param_groups} == {name == "normuon"}
        assert {(group["lr"], group["weight_decay"]) for group in muon.param_groups} == {(0.5, 0.25)}
        for group in muon.param_groups:
            kinds[group["pieces"]] = {names[id(p)].split(".")[-2] for p in group["params"]}
    wanted = {3: {"attention_in"}, 2: {"feed_in"}, 1: {"attention_out", "feed_out"}}
    assert kinds == ({} if name == "adamw" else wanted)
    held = [names[id(p)] for one in (*muons, adamw) for group in one.param_groups for p in group["params"]]
    assert sorted(held) == sorted(trained), "each once, and the frozen one not at all"
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["lr"] == 0.5


def test_a_row_of_the_history_by_hand() -> None:
    config = experiment(train={"optimizer": {"learning_rate": 2.0}, "warmup_steps": 0, "schedule": "constant"}).train
    sums = dict(zip((*METRICS, "gradient_norm"), map(float, range(2, 3 + len(METRICS))), strict=True))
    sums["cells_1"] = 0.0
    row = history_row(list(sums.values()), config, 7, 4)
    assert row == pytest.approx(
        {
            "step": 7.0,
            "learning_rate": 2.0,
            "loss": 2 / 3,
            "gradient_norm": 19 / 4,
            "cross_entropy": 5 / 4,
            "accuracy": 6 / 4,
            "size_cross_entropy": 8 / 7,
            "size_accuracy": 9 / 7,
            "grids": 7.0,
            "cross_entropy_0": 11 / 10,
            "accuracy_0": 12 / 10,
            "cross_entropy_1": 14.0,
            "accuracy_1": 15.0,
            "cross_entropy_2": 17 / 16,
            "accuracy_2": 18 / 16,
        }
    )
