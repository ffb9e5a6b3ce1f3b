"""What a fine-tuning starts from: rows of known and new tasks, and a start that was trained on evaluated pairs."""

import json

import numpy as np
import pytest
import torch
import yaml

from model.puzzles.leaks import fingerprints
from model.puzzles.symmetry import colour_cycle, view_of
from model.storage import checkpoints
from tasks import augment, fetch, predict, prepare, score, select, train
from tasks.common import paths
from tasks.files import tables
from tests.conftest import experiment, puzzles

CHALLENGES, SOLUTIONS = ("arc-agi_{}_challenges.json", "arc-agi_{}_solutions.json")


def _stages(config, *stages):
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for stage in stages:
        stage.main()


def _start(files, raw, **changes):
    """Train on the files, and lay the result down as the start `start`."""
    raw(files)
    _stages(experiment(prepare={"validation_tasks": 1}, **changes), prepare, augment, train, select)
    paths.OWN.mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".json"):
        (paths.OWN / f"start{suffix}").write_bytes((paths.CHECKPOINTS / f"final{suffix}").read_bytes())


def _fine_tuning(**changes):
    config = experiment(finetuning="lora", train={"finetune": {"rank": 1}}, **changes)
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fetch.copy_start("start")
    return config


def _shown(grid, element=5, cycle=3):
    return view_of(element, colour_cycle(cycle), np.array(grid, dtype=np.uint8)).tolist()


def _other(files, how):
    """Files of other tasks, one of whose training tasks holds the evaluated pair of `files`."""
    given = files[CHALLENGES.format("evaluation")]["cccccccc"]["test"][0]["input"]
    answer = files[SOLUTIONS.format("evaluation")]["cccccccc"][0]
    other = json.loads(json.dumps(files))
    pair = {"input": [[7, 7]], "output": [[7], [0]]}
    other[CHALLENGES.format("evaluation")] = {"dddddddd": {"train": [pair], "test": [{"input": [[8, 0]]}]}}
    other[SOLUTIONS.format("evaluation")] = {"dddddddd": [[[8], [9]]]}
    task = {"train": [pair], "test": [{"input": given}]}
    if how == "task":  # Its pair was changed since, but not its name.
        names = {"cccccccc": (task | {"test": [{"input": [[3, 3, 1]]}]}, [[[3]]])}
    elif how == "pair":
        names = {"eeeeeeee": (task | {"test": [{"input": _shown(given)}]}, [_shown(answer)])}
    else:  # In a demonstration.
        shown = {"input": _shown(given), "output": _shown(answer)}
        names = {"eeeeeeee": ({"train": [pair, shown], "test": [{"input": [[1]]}]}, [[[2]]])}
    for name, (contents, solution) in names.items():
        other[CHALLENGES.format("training")][name] = contents
        other[SOLUTIONS.format("training")][name] = solution
    return other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("task", "test pairs of that task"),
        pytest.param("pair", "pair itself", marks=pytest.mark.slow),
        pytest.param("demonstration", "pair itself", marks=pytest.mark.slow),
    ],
)
def test_a_start_that_was_trained_on_an_evaluated_pair_is_refused_before_it_trains(raw, monkeypatch, how, says):
    """As an aa2 checkpoint is for aa1: 376 of the evaluation tasks are training tasks there."""
    files = puzzles()
    held_out = next(seed for seed in range(9) if not {"cccccccc", "eeeeeeee"} & _validation(seed, how))
    _start(_other(files, how), raw, seed=held_out)
    raw(files)
    config = _fine_tuning()
    _stages(config, prepare, augment)
    with monkeypatch.context() as patch:
        patch.setattr(train, "Training", None)  # It must not come to that.
        with pytest.raises(SystemExit) as caught:
            train.main()
    message = str(caught.value)
    assert "the start data/start/checkpoint (v3/tiny/aa1-6x6" in message
    named = says if how == "task" else f"that {says}"
    assert f"trained on 1 of the 1 evaluated pairs, such as task cccccccc, test 0 ({named})" in message
    assert "set prepare.leaks: keep" in message

    config = _fine_tuning(prepare={"leaks": "keep"})
    _stages(config, prepare, augment, train, select)
    described = checkpoints.describe(paths.CHECKPOINTS / "final")
    assert described.leaks == 1
    before = checkpoints.describe(paths.START / "checkpoint")
    assert set(described.tests_trained_on) >= set(before.tests_trained_on)
    here = fingerprints(tables.read_dataset("train", paths.TRAINING_VIEWS))
    assert set(described.pairs_trained_on.split()) == {*before.pairs_trained_on.split(), *here}
    predict.main("final", "attempts")
    with pytest.raises(SystemExit, match="1 evaluated pairs were trained on"):
        score.main("final", "attempts")
    _stages(_fine_tuning(prepare={"leaks": "keep"}, score={"allow_leaks": True}))
    score.main("final", "attempts")


def _validation(seed, how):
    """The one training task that `prepare` holds out."""
    pool = sorted(_other(puzzles(), how)[CHALLENGES.format("training")])
    return {str(np.random.Generator(np.random.Philox(key=seed)).permutation(pool)[0])}


def test_a_start_that_saw_none_of_it_and_one_with_only_the_demonstrations_are_taken(raw):
    files = puzzles()
    task = files[CHALLENGES.format("evaluation")]["cccccccc"]
    test = {"input": task["test"][0]["input"], "output": files[SOLUTIONS.format("evaluation")]["cccccccc"][0]}
    # The test pair is a view of a demonstration of its own task: part of the puzzle, no leak of the start.
    task["train"].append({side: _shown(grid) for side, grid in test.items()})
    _start(files, raw)
    _stages(_fine_tuning(), prepare, augment, train)
    stem = next(paths.CANDIDATES.glob("*.json"))
    assert json.loads(stem.read_text())["leaks"] == 0


@pytest.mark.slow
def test_validation_tasks_that_the_start_saw_are_said(raw, capsys):
    files = puzzles()
    draws = {s: np.random.Generator(np.random.Philox(key=s)).permutation(["aaaaaaaa", "bbbbbbbb"])[0] for s in range(9)}
    other = next(seed for seed, name in draws.items() if name != draws[0])
    _start(files, raw, seed=0)
    _stages(_fine_tuning(seed=other, prepare={"validation_tasks": 1}), prepare, augment, train)
    assert "the start was trained on the test pairs of 1 of 1 validation tasks" in capsys.readouterr().out


def _rows(config, tasks, seed=0):
    stem, rows = paths.CHECKPOINTS / "final", list(range(len(tasks)))
    found = checkpoints.start_weights(stem, config.train, config.augment, tasks, rows, len(tasks), seed)
    return found["task_table.weight"]


def test_known_tasks_keep_their_rows_and_new_ones_start_around_the_mean(raw):
    """Version ledger, v3-reverted: the mean of the old rows + N(0, 0.01^2)."""
    raw(puzzles())
    config = experiment()
    _stages(config, prepare, augment, train, select)
    old = checkpoints.load(paths.CHECKPOINTS / "final", torch.device("cpu"))[0].task_table.weight.detach()
    tasks = ["cccccccc", *(f"new{i}" for i in range(200)), "aaaaaaaa"]
    rows = _rows(config, tasks)
    assert torch.equal(rows[[0, -1]], old[[2, 0]])
    apart = rows[1:-1] - old.mean(0)
    assert float(apart.mean()) == pytest.approx(0, abs=5 * 0.01 / apart.numel() ** 0.5)
    assert float(apart.std()) == pytest.approx(0.01, rel=0.05)
    assert len(torch.unique(rows, dim=0)) == len(tasks)
    assert torch.equal(rows, _rows(config, tasks))
    assert not torch.equal(rows, _rows(config, tasks, seed=1))


def test_a_start_of_another_network_is_refused_with_the_difference_named(raw):
    raw(puzzles())
    _stages(experiment(), prepare, augment, train, select)
    for network, says in (
        ({"time_input": "index"}, r"train.network.time_input 'log-snr', but here it is 'index'"),
        ({"width": 48}, r"train.network.width 32, but here it is 48"),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=says):
            _rows(experiment(train={"network": network}), ["aaaaaaaa"])


def test_a_missing_start_is_named(workspace):
    with pytest.raises(Exception, match=r"start is 'gone', but data/own/gone.safetensors is missing"):
        fetch.copy_start("gone")
