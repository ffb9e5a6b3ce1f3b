"""Every switch of a version changes what it claims to change, and only that."""

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from model.network.denoiser import build
from model.network.device_data import task_rows
from model.network.packing import pack, pad_to_budget
from model.ops.keyed_random import hash_key
from model.training import objective
from model.training.trainer import Training
from tasks import augment, prepare, train
from tasks.common import paths
from tasks.common.presets import merge
from tasks.common.stage import StageError
from tasks.files import tables
from tests.conftest import experiment, puzzles
from tests.support.small_training import dataset

HOW = "self_conditioning"
BASE = {"optimizer_steps": 6, "warmup_steps": 2, "log_every": 1}


def _training(**train):
    config = experiment(train=merge(BASE, train)).train
    data = dataset()
    rows = task_rows(config.network, data.views)
    subject = Training(data, np.ones(len(data.pairs)), rows, config, 0, torch.device("cpu"))
    subject.run(on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=lambda: False)
    return subject


@functools.cache
def _aspects(text):
    """Everything of a training that a switch may change, by name."""
    config = experiment(train=merge(BASE, json.loads(text))).train
    data, candidates = dataset(), []
    rows = task_rows(config.network, data.views)
    subject = Training(data, np.ones(len(data.pairs)), rows, config, 0, torch.device("cpu"))
    shapes = {name: tuple(tensor.shape) for name, tensor in subject.network.state_dict().items()}
    subject.run(
        on_row=lambda _: None,
        on_candidate=candidates.append,
        on_save=lambda: None,
        stop=lambda: False,
    )
    losses = [[row[name] for name in ("loss", "cross_entropy", "size_cross_entropy")] for row in subject.history]
    return {
        "shapes": shapes,
        "first loss": losses[0],
        "later losses": losses[1:],
        "rates": [row["learning_rate"] for row in subject.history],
        "rows": [row["step"] for row in subject.history],
        "trained": _bytes(subject.network.state_dict()),
        "kept": _bytes(subject.weights(subject.config.evaluated_weights)),
        "candidates": candidates,
    }


def _bytes(weights):
    return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(weights.items()))


def _losses(**train):
    return [row["loss"] for row in _training(**train).history]


def _equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_evaluated_weights_change_what_is_kept_and_nothing_of_the_training():
    raw, ema = _training(), _training(evaluated_weights="ema")
    assert raw.history == ema.history
    assert _equal(raw.network.state_dict(), ema.network.state_dict())
    assert _equal(raw.weights("raw"), ema.network.state_dict())
    assert not _equal(raw.weights("raw"), ema.weights("ema"))


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


COURSE = {"later losses", "trained", "kept"}
"""What follows from another update, whatever it was."""
ALL = COURSE | {"first loss"}
RATE = COURSE | {"rates"}
SHAPES = ALL | {"shapes"}
LOG, NO_FEATURES = {HOW: {"features": "log-probabilities"}}, {HOW: {"features": "none"}}

SWITCHES: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    # What it is switched from beyond the defaults, the switch, and all that it changes. An untrained network gives
    # every colour a tenth, so what acts on colours alone leaves the first loss as it is.
    ({}, {"network": {"width": 48}}, SHAPES),
    ({}, {"network": {"layers": 1}}, SHAPES),
    ({}, {"network": {"heads": 4}}, ALL),
    ({}, {"network": {"feed_forward": 32}}, SHAPES),
    ({}, {"network": {"size_hidden": 8}}, SHAPES),
    ({}, {"network": {"dropout": 0.0}}, ALL),
    ({}, {"network": {"embedding_dropout": 0.0}}, ALL),
    ({}, {"network": {"input_grid_dropout": 0.9}}, ALL),
    ({}, {"network": {"conditioning": "task"}}, SHAPES),
    ({}, {"network": {"conditioning": "d4"}}, SHAPES),
    ({}, {"network": {"conditioning": "rotation-flip-colour"}}, ALL),
    ({}, {"network": {"conditioning": "augmented-task"}}, SHAPES),
    ({}, {"network": {"attention_gain": 2.0}}, ALL),
    ({}, {"network": {"fastest_rotation": 2.0}}, ALL),
    ({}, {"network": {"task_embedding": "added"}}, ALL),
    ({}, {"network": {"task_tokens": 3}}, SHAPES),
    ({}, {"network": {"embedding_std": 0.02}}, ALL),
    ({}, {"network": {"head_gains": "learned"}}, COURSE | {"shapes"}),
    ({}, {"network": {"turns": 2}}, ALL),
    ({"network": {"turns": 2}}, {"last_turn_share": 0.9}, COURSE),
    ({"network": {"turns": 2}}, {"last_turn_share": 0.5}, set()),  # what null is, of two turns
    ({}, {"last_turn_share": 0.9}, set()),  # of one turn
    ({}, {"network": {"convolution": "3x3"}}, COURSE | {"shapes"}),
    ({}, {"network": {"hidden_dropout": 0.2}}, ALL),
    ({}, {"network": {"time_input": "index"}}, COURSE),
    ({}, {"network": {"time_input": "log-alpha-bar"}}, COURSE),
    ({}, {"noise": {"steps": 64}}, COURSE),
    ({}, {"noise": {"offset": 0.1}}, COURSE),
    ({}, {"noise": {"alpha_bar_final": 0.2}}, COURSE),
    ({}, LOG, COURSE),
    (LOG, {HOW: {"temperature": 2.0}}, COURSE),
    ({}, {HOW: {"temperature": 2.0}}, set()),  # of the log-probabilities; here are probabilities
    ({}, {HOW: {"projection": "mlp"}}, SHAPES),
    ({}, {HOW: {"projection": "gated-norm"}}, SHAPES),
    ({}, {HOW: {"gain": "progress"}}, COURSE),
    (NO_FEATURES, {HOW: {"rate": 0.0}}, set()),  # What nobody sees is not computed.
    ({}, {HOW: {"null_conditioning_rate": 0.0}}, COURSE),
    ({}, {HOW: {"training": "reverse-step"}}, COURSE),
    ({}, {HOW: {"training": "argmax-reverse-step"}}, COURSE),
    (NO_FEATURES, {HOW: {"training": "blend"}}, COURSE),
    ({}, {HOW: {"inference": "two-pass"}}, set()),
    ({}, {"optimizer": {"name": "muon"}}, COURSE),
    ({}, {"optimizer": {"name": "normuon"}}, COURSE),
    ({"optimizer": {"name": "muon"}}, {"optimizer": {"name": "normuon"}}, COURSE),
    ({}, {"optimizer": {"table_weight_decay": 0.5}}, COURSE),
    ({}, {"optimizer": {"table_weight_decay": 0.01}}, set()),  # what null is
    # Sums of equal losses in other buckets or with other weights: the first loss changes by rounding alone.
    ({}, {"noise_levels": {"exponent": 2.0}}, ALL),
    ({}, {"noise_levels": {"pure_noise_share": 0.5}}, ALL),
    ({}, {"loss_mean": "examples"}, ALL),
    ({}, {"loss_mean": "root-cells"}, ALL),
    ({}, {"optimizer": {"learning_rate": 0.01}}, RATE),
    ({}, {"optimizer": {"weight_decay": 0.5}}, COURSE),
    ({}, {"schedule": "constant"}, RATE),
    ({}, {"schedule": "linear"}, RATE),
    ({}, {"final_rate": 0.5}, RATE),
    ({}, {"warmup_steps": 4}, RATE),
    ({}, {"optimizer_steps": 8}, RATE | {"rows", "candidates"}),
    ({}, {"batch": 4}, ALL),
    ({}, {"accumulation": 2}, ALL),
    ({}, {"gradient_clip": 0.01}, COURSE),
    ({}, {"size_loss_weight": 1.0}, ALL),
    ({}, {"pixel_noise": {"rate": 1.0}}, set()),  # a share of none
    ({}, {"pixel_noise": {"share": 0.5}}, set()),  # of no example
    ({"pixel_noise": {"share": 0.5}}, {"pixel_noise": {"rate": 1.0}}, ALL),
    ({}, {"evaluated_weights": "ema"}, {"kept"}),
    ({}, {"ema": {"decay": 0.999}}, set()),
    ({}, {"ema": {"warmup_steps": 2}}, set()),
    ({"evaluated_weights": "ema"}, {"ema": {"decay": 0.999}}, {"kept"}),
    ({"evaluated_weights": "ema"}, {"ema": {"warmup_steps": 2}}, {"kept"}),
    ({}, {"precision": "bf16"}, ALL),
    ({}, {"precision": "fp32"}, set()),  # What auto is on a CPU; so is never.
    ({}, {"compile": "never"}, set()),
    ({}, {"candidates": 6}, {"candidates"}),
    ({}, {"log_every": 2}, {"first loss", "later losses", "rates", "rows"}),
]
ELSEWHERE = {
    "early_stop": "test_early_stop",
    "evaluate_candidates": "tests/tasks/test_candidate_scores",
    "evaluation_weight": "below, and test_stream",
    "finetune": "test_adapters, test_start",
    "last_share_on_evaluation": "test_last_share",
    "origin_shares": "test_sampling_weights",
    "validation": "test_validation",
}


def _leaves(values):
    return {f"{k}.{n}" for k, v in values.items() if isinstance(v, dict) for n in v} | {
        k for k, v in values.items() if not isinstance(v, dict)
    }


def test_no_switch_of_the_training_is_left_out():
    there = _leaves(experiment().train.model_dump())
    tested = {name for _, switch, _ in SWITCHES for name in _leaves(switch)}
    assert {name for name in there - tested if name.split(".")[0] not in ELSEWHERE} == set()


@pytest.mark.slow
@pytest.mark.parametrize(("base", "switch", "changes"), SWITCHES, ids=[json.dumps(s) for _, s, _ in SWITCHES])
def test_a_switch_of_the_training_changes_what_it_claims_and_only_that(base, switch, changes):
    before, after = _aspects(json.dumps(base)), _aspects(json.dumps(merge(base, switch)))
    assert {name for name in before if before[name] != after[name]} == changes


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_the_evaluation_weight_is_that_of_the_pairs_of_evaluation_tasks(raw, monkeypatch, weight):
    raw(puzzles())
    config = experiment(train={"evaluation_weight": weight}, prepare={"validation_tasks": 1})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    prepare.main()
    augment.main()
    given = {}

    def spy(dataset, weights, *_):
        names = [task["name"] for task in tables.read_tasks()]
        given.update(zip([names[task] for task in dataset.pairs.task], weights.tolist(), strict=True))
        raise StageError("seen")

    monkeypatch.setattr(train, "Training", spy)
    with pytest.raises(SystemExit, match="seen"):
        train.main()
    assert given == {"aaaaaaaa": 1.0, "bbbbbbbb": 1.0, "cccccccc": weight}


def test_without_features_nothing_else_of_self_conditioning_matters():
    off = {"features": "none", "rate": 0.0, "null_conditioning_rate": 0.0}
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
    config = experiment(train={"pixel_noise": {"rate": rate, "share": share}}).train
    subject = _training()
    batches, found = subject.stream.batches(), []
    for i in range(60):
        table, budget = pad_to_budget(next(batches), subject.network.prefix_length, None)
        packed = pack(torch.from_numpy(table), subject.data, subject.network.prefix_length, budget)
        noisy = objective.pixel_noise(packed, config, hash_key(torch.tensor(i)))
        changed, black = noisy.context_colour != packed.context_colour, packed.context_colour == 0
        assert black[changed].all()
        assert ((noisy.context_colour[changed] >= 1) & (noisy.context_colour[changed] <= 9)).all()
        assert torch.equal(noisy.target_colour, packed.target_colour)
        count = table.shape[1]
        of = packed.context_example
        all_, hit = of[black].bincount(minlength=count), of[changed].bincount(minlength=count)
        found += [(int(h), int(a)) for h, a in zip(hit, all_, strict=True) if a]
    return np.array(found)


@pytest.mark.parametrize("share", [0.02, 0.25, 1.0])
def test_pixel_noise_recolours_the_ledgers_number_of_black_cells(share):
    """Ledger 2.2: max(1, floor(share x black cells)) of an example, with the rate's chance."""
    everywhere = _recoloured(1.0, share)
    assert [hit for hit, _ in everywhere.tolist()] == [max(1, int(share * black)) for _, black in everywhere.tolist()]
    sometimes = _recoloured(0.5, share)
    assert (sometimes[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_pixel_noise_takes_every_black_cell_as_often():
    subject = _training()
    table, budget = pad_to_budget([(0, 0, 0, 5, 5, 25, 5, 5)], subject.network.prefix_length, None)
    packed = pack(torch.from_numpy(table), subject.data, subject.network.prefix_length, budget)
    packed = packed._replace(context_colour=torch.where(packed.context_colour <= 9, 0, packed.context_colour))
    config = experiment(train={"pixel_noise": {"rate": 1.0, "share": 0.2}}).train
    noised = [objective.pixel_noise(packed, config, hash_key(torch.tensor(i))).context_colour for i in range(600)]
    hits = (torch.stack(noised) > 0).double().sum(0)
    cells = hits[packed.context_colour == 0]
    assert len(cells) == 25
    assert cells.sum() == 600 * 5
    assert (cells - 120).abs().max() < 5 * (600 * 0.2 * 0.8) ** 0.5
