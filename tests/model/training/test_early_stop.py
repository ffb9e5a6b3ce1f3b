"""Early stop: by the validation pairs alone, the same after an interruption, and said wherever a training is."""

import json
import math

import pytest
import torch
import yaml

from model.diffusion.schedule import cosine_schedule, levels
from model.training.validation import CROSS_ENTROPY, PREFIX, Validation, exhausted, lowest
from tasks import augment, prepare, report, select, train
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.files import tables
from tests.conftest import experiment, puzzles
from tests.support.small_training import held_out, run, training

EVERY_2 = {"every": 2, "patience": 4, "improvement": 0.0}


def _config(stop, **changes):
    values = {"optimizer_steps": 40, "warmup_steps": 2, "log_every": 1, "early_stop": stop, "candidates": 4, **changes}
    return experiment(train=values).train


def _row(step, value):
    return {"step": float(step)} if value is None else {"step": float(step), CROSS_ENTROPY: value}


def test_patience_runs_out_so_many_updates_after_the_lowest_value_by_hand():
    config = _config({"every": 10, "patience": 20, "improvement": 0.1}, log_every=5).early_stop
    values = [2.0, 1.5, 1.45, 1.39, 1.38, 1.31]  # 1.39 is a new lowest, since 1.45 was none; 1.38 and 1.31 are none.
    history = [_row(10 * (i + 1), value) for i, value in enumerate(values)]
    assert [exhausted(history[:n], config) for n in range(len(values) + 1)] == [False] * 6 + [True]
    assert lowest(history, config) == (40.0, 1.39)
    assert not exhausted([*history, _row(65, None)], config)  # A row without a look decides nothing.
    assert not exhausted(history, None)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_stops_where_the_history_says_and_the_last_candidate_is_that_update(accumulation):
    subject, candidates = (
        training(_config(EVERY_2, optimizer={"learning_rate": 0.1}, accumulation=accumulation), validation=held_out()),
        [],
    )
    ignore = lambda *_: None  # noqa: E731
    subject.run(on_row=ignore, on_candidate=candidates.append, on_save=lambda: None, stop=lambda: False)
    looks = {row["step"]: row[CROSS_ENTROPY] for row in subject.history if CROSS_ENTROPY in row}
    assert list(looks) == [float(step) for step in range(2, subject.step + 1, 2)]
    assert subject.stopped_early
    assert subject.step == min(looks, key=looks.__getitem__) + 4 < 40
    assert candidates == [*range(10, subject.step, 10), subject.step]


@pytest.mark.slow
def test_looking_changes_nothing_of_the_training():
    plain = run(training(_config(None)))
    assert not any(name.startswith(PREFIX) for row in plain.history for name in row)
    assert plain.step == 40
    watched = run(training(_config({"every": 1, "patience": 38, "improvement": 0.0}), validation=held_out()))
    seen = [{k: value for k, value in row.items() if not k.startswith(PREFIX)} for row in watched.history]
    assert seen == plain.history[: len(seen)]


@pytest.mark.slow
def test_other_looks_do_not_move_its_decisions():
    stop = {"every": 4, "patience": 8, "improvement": 0.0}
    seldom, often = (
        run(training(_config(stop, optimizer={"learning_rate": 0.1}, validation={"every": n}), validation=held_out()))
        for n in (500, 1)
    )
    assert seldom.stopped_early
    assert often.step == seldom.step
    assert sum(CROSS_ENTROPY in row for row in often.history) == often.step > len(often.history) // 4


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["raw", pytest.param("ema", marks=pytest.mark.slow)])
def test_an_interrupted_training_stops_at_the_same_update_with_the_same_weights(weights):
    config = _config(EVERY_2, optimizer={"learning_rate": 0.1}, evaluated_weights=weights)
    whole = run(training(config, validation=held_out()))
    assert whole.stopped_early
    for stop in (3, whole.step - 1, whole.step):
        first = run(training(config, validation=held_out()), until=stop)
        tensors, plain = first.state()
        resumed = training(config, validation=held_out())
        resumed.restore({name: t.clone() for name, t in tensors.items()}, json.loads(json.dumps(plain)))
        run(resumed)
        assert resumed.stopped_early
        assert resumed.history == whole.history
        assert all(torch.equal(t, whole.weights(weights)[name]) for name, t in resumed.weights(weights).items())


def test_the_look_is_the_mean_cross_entropy_over_cells_whatever_the_batch():
    subject = run(training(_config(None), validation=held_out()))
    config = subject.config
    table = levels(cosine_schedule(config.noise), config.network.time_input, torch.device("cpu"))

    def look(batch, seed=0):
        return Validation(held_out(), config.model_copy(update={"batch": batch}), table, seed)

    found = look(6).measure(subject.network)
    assert found == look(6).measure(subject.network)
    assert found[CROSS_ENTROPY] != look(6, seed=1).measure(subject.network)[CROSS_ENTROPY]
    torch.nn.init.zeros_(subject.network.colour_head.weight)
    for batch in (1, 4, 6):
        assert look(batch).measure(subject.network)[CROSS_ENTROPY] == pytest.approx(math.log(10), rel=1e-6)
    assert subject.network.training


@pytest.mark.parametrize(
    ("stop", "says"),
    [
        (
            {"every": 0, "patience": 4, "improvement": 0.0},
            r"train.early_stop.every is 0; Input should be greater than 0",
        ),
        (
            {"every": 4, "patience": 6, "improvement": 0.0},
            r"early_stop .*patience is 6; it must be a multiple of every, 4",
        ),
        (
            {"every": 6, "patience": 6, "improvement": 0.0},
            r"early_stop.every is 6; it must be a multiple of log_every, 4",
        ),
        (
            {"every": 4, "patience": 8, "improvement": 0.0},
            r"patience is 8; .*update 4 it must end before optimizer_steps, 12",
        ),
        ({"every": 4, "patience": 4, "improvement": -0.1}, r"early_stop.improvement is -0.1; Input should be greater"),
        (
            {"every": 4, "patience": 4, "improvment": 0.1},
            r"unknown key train.early_stop.improvment .*did you mean 'improvement'",
        ),
        ({"every": 4, "patience": 4}, r"train.early_stop.improvement is missing"),
    ],
)
def test_refused_values_are_named(stop, says):
    with pytest.raises(ConfigurationError, match=says):
        experiment(train={"early_stop": stop})


def test_it_never_stops_on_the_reported_solutions():
    with pytest.raises(ConfigurationError, match=r"train.early_stop would stop on the solutions that are rep"):
        experiment(train={"early_stop": EVERY_2 | {"every": 4}}, prepare={"validation": "evaluation-solutions"})


def test_through_the_stages_it_is_said_and_halfway_is_half_of_what_was_done(raw, capsys):
    raw(puzzles())
    early = {
        "early_stop": EVERY_2,
        "optimizer_steps": 40,
        "candidates": 10,
        "log_every": 2,
        "optimizer": {"learning_rate": 0.1},
    }
    config = experiment(train=early)
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for stage in (prepare, augment, train, select):
        stage.main()
    printed = capsys.readouterr().out
    history, selection = (json.loads(path.read_text()) for path in (paths.HISTORY, paths.SELECTION))
    end = int(history[-1]["step"])
    assert end < 40
    looks = {row["step"]: row[CROSS_ENTROPY] for row in history}
    at = min(looks, key=looks.__getitem__)
    assert f"stopped early after update {end} of 40: no validation cross-entropy below the {looks[at]:.4f}" in printed
    done = [candidate["step"] for candidate in selection["candidates"]]
    assert done == [*range(4, end, 4), end]
    assert selection["final"] == end
    assert selection["halfway"] == next(step for step in done if step >= end / 2)
    final = json.loads((paths.CHECKPOINTS / "final.json").read_text())
    assert (final["step"], final["optimizer_steps"], final["stopped_early"]) == (end, 40, True)
    assert not json.loads(paths.candidate(done[0]).with_suffix(".json").read_text())["stopped_early"]
    assert f"trained for {end} of 40 updates (stopped early)" in report.summary({}, "evaluation", history, 40)
    assert "trained for 40 updates and" in report.summary({}, "evaluation", [{"step": 40.0}], 40)


def test_what_it_looks_at_are_the_solutions_of_the_validation_split(raw):
    files = puzzles()
    raw(files)
    for stage in (prepare, augment):
        stage.main()
    found = tables.read_validation(paths.TRAINING_VIEWS)
    names = [task["name"] for task in tables.read_tasks()]
    for i in range(len(found.pairs)):
        p = found.pairs
        cells = found.cells[p.output_offset[i] :][: p.output_height[i] * p.output_width[i]]
        grid = cells.reshape(p.output_height[i], p.output_width[i]).tolist()
        assert grid == files["arc-agi_training_solutions.json"][names[p.task[i]]][p.number[i]]
    assert {names[task] for task in found.pairs.task} == {"aaaaaaaa", "bbbbbbbb"}
