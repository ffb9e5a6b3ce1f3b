"""Study files whose experiments have labels, and that every experiment of the ablations runs."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from model.config.experiment import Experiment
from model.network.device_data import task_rows
from model.puzzles.arrays import Dataset
from model.puzzles.views import make_views
from model.training.trainer import Training
from tasks import augment, fetch, predict, prepare, select, train
from tasks.common import params, paths
from tasks.common.presets import ConfigurationError, merge
from tasks.files import tables
from tasks.studies.study_file import Member, read_study
from tests.conftest import ROOT, SMALL
from tests.support.small_training import dataset

ABLATIONS = read_study(ROOT / "docs/studies/ablations.yaml")
BASE = ABLATIONS[0]


def _study(path: Path, text: str) -> list[Member]:
    path.write_text(text)
    return read_study(path)


def test_experiments_of_one_name_have_labels(tmp_path):
    members = _study(
        tmp_path / "study.yaml",
        "seeds: [0, 1]\n"
        "experiments:\n"
        "  v3/tiny/aa1: {train: {batch: 16}}\n"
        "  slow: {name: v3/tiny/aa1, train: {schedule: constant}}\n"
        "  other+budget: {name: v8/tiny+3min/aa1-6x6}\n",
    )
    assert [m.label for m in members] == [
        *("v3-tiny-aa1", "v3-tiny-aa1-s1", "slow", "slow-s1", "other+budget", "other+budget-s1"),
    ]
    assert [m.experiment.name for m in members[::2]] == ["v3/tiny/aa1", "v3/tiny/aa1", "v8/tiny+3min/aa1-6x6"]
    assert [m.experiment.seed for m in members] == [0, 1] * 3
    assert members[2].experiment.train.schedule == "constant"
    presets = params.read(ROOT / paths.PRESETS)
    for member in members:  # What params.yaml would say, without the label's name.
        assert params.resolve(member.values, presets) == member.experiment


def test_a_label_chooses_an_experiment(tmp_path):
    text = "experiments: {a: {name: v3/tiny/aa1}, b: {name: v6/tiny/aa1}}"
    _study(tmp_path / "study.yaml", text)
    assert [m.experiment.version for m in read_study(tmp_path / "study.yaml", ["b", "a"])] == ["v6", "v3"]


@pytest.mark.parametrize(
    ("experiments", "says"),
    [
        ("{a/b: {name: v3/tiny/aa1}}", "label 'a/b' names a folder; allowed are letters"),
        ("{..: {name: v3/tiny/aa1}}", "label '..' names a folder"),
        ("{a: {train: {batch: 16}}}", "experiment 'a' is no VERSION"),
        ("{a: {name: 3}}", "experiment '3' is no VERSION"),
        ("{a: {name: v3/tiny/aa3}}", "a: dataset is 'aa3'"),
        ("{a: {name: v3/tiny/aa1}, b: {name: v3/tiny/aa1}}", "a and b are the same experiment; leave one out"),
        ("{v3-tiny-aa1: {name: v6/tiny/aa1}, v3/tiny/aa1: {}}", "two experiments are called v3-tiny-aa1"),
    ],
)
def test_a_wrong_label_is_refused(experiments, says, tmp_path):
    with pytest.raises(ConfigurationError) as error:
        _study(tmp_path / "study.yaml", f"experiments: {experiments}")
    assert says in str(error.value)


def test_the_ablations_are_of_one_name_and_each_differs_in_its_training_or_data():
    assert BASE.label == "v8-3min"
    assert {m.experiment.name for m in ABLATIONS} == {"v8/mediom-deep+3min/aa1"}
    assert len({m.label for m in ABLATIONS}) == len(ABLATIONS)
    for member in ABLATIONS:
        ours, base = member.experiment, BASE.experiment
        assert ours.train.optimizer_steps == base.train.optimizer_steps == 3600
        same = (ours.train, ours.augment, ours.fetch) == (base.train, base.augment, base.fetch)
        assert same == (member is BASE)
        assert ours.predict.checkpoints == ("final",)
    sizes = {name: BASE.experiment.evaluations[name].sizes for name in BASE.experiment.predict.evaluations}
    assert sizes == {"votes": "rule", "votes-split": "split"}


def _tiny(member: Member, **changes: object) -> Experiment:
    """The experiment at a tiny size: its own keys over those of the small one, and `changes` over both."""
    small = {"train": merge(SMALL["train"], {"optimizer_steps": 4, "warmup_steps": 1, "log_every": 1})}
    values = merge(merge(small, member.values), {"size": "tiny", "budget": "own", **changes})
    return params.resolve(values, params.read(ROOT / paths.PRESETS), member.label)


@functools.cache
def _trained(index: int) -> dict[str, torch.Tensor]:
    """Weights after three updates of the small experiment with an ablation's settings and views."""
    config, data = _tiny(ABLATIONS[index]), dataset()
    views = make_views(config.augment, np.full(6, 16), 0, [frozenset({1, 2})] * 6)
    data = Dataset(data.cells, data.pairs, views)
    rows = task_rows(config.train.network, views)
    subject = Training(data, np.ones(len(data.pairs)), rows, config.train, 0, torch.device("cpu"))
    batches = subject.stream.batches()
    for _ in range(3):
        subject.update([next(batches)])
    return subject.network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(ABLATIONS)), ids=[m.label for m in ABLATIONS])
def test_every_ablation_trains_at_a_tiny_size_and_is_another_training(index):
    ours, base = _trained(index), _trained(0)
    assert all(torch.isfinite(tensor).all() for tensor in ours.values())
    shapes = [{name: tensor.shape for name, tensor in side.items()} for side in (ours, base)]
    equal = shapes[0] == shapes[1] and all(torch.equal(ours[name], base[name]) for name in base)
    # The size tiny has no convolution, and rearc has other data, which the stages make.
    assert equal == (ABLATIONS[index].label in ("v8-3min", "v8-3min-convolution", "v8-3min-rearc"))


@pytest.mark.slow
@pytest.mark.parametrize("label", ["v8-3min", pytest.param("v8-3min-rearc", marks=pytest.mark.night)])
def test_an_ablation_runs_from_the_tasks_to_the_predictions(label, workspace):
    if label == "v8-3min-rearc" and importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("reasoning-gym is not installed")
    member = next(m for m in ABLATIONS if m.label == label)
    asked = member.experiment.predict.evaluations
    experiment = _tiny(
        member,
        dataset="aa1-6x6",
        fetch={"rearc": {"pairs": 1, "largest_cells": 72}},
        augment={"training_views": 8, "evaluation_views": 8, "voting_views": 8},
        select={"steps": 2, "limit": 2},
        evaluations={name: {"steps": 2, "limit": 2, "answers": {"views": 8}} for name in {"votes", *asked}},
    )
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    for stage in (fetch, prepare, augment, train, select):
        stage.main()
    assert ("rearc" in tables.read_origins("train")) == (label == "v8-3min-rearc")
    for evaluation in asked:
        predict.main("final", evaluation)
        answered = pd.read_parquet(paths.predictions("final", evaluation))
        assert answered["task"].nunique() == 2
        assert len(answered) >= 2 * 8
