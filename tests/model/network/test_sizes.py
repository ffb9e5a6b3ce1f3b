"""Every size, dataset and fine-tuning by name, for a few updates on a CPU, at its own width and depth."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from model.network.device_data import task_rows
from model.training.trainer import Training
from tasks import augment, fetch, predict, prepare, select, train
from tasks.commands import show_experiment
from tasks.common import paths
from tasks.common.presets import merge
from tasks.files import tables
from tests.conftest import experiment, puzzles
from tests.support.presets import DATASETS, FINETUNINGS, SIZES, named
from tests.support.small_training import dataset

FEW = {"optimizer_steps": 2, "candidates": 2, "warmup_steps": 1, "log_every": 1, "batch": 2, "accumulation": 2}


def _whole(version, size):
    """The configuration of a version and size in presets.yaml, except the length of training."""
    changes = {"version": version, "size": size, "select": {"steps": 2, "limit": 2}}
    evaluations: dict[str, Any] = {name: {"steps": 2, "limit": 2} for name in ("attempts", "votes")}
    evaluations["votes"]["answers"] = {"views": 2}
    train = {"network": named(version, size).train.network.model_dump()} | FEW
    return changes | {"train": train, "evaluations": evaluations}


def _stages(config, *stages):
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for stage in stages:
        stage.main()


HEAVY = ("smol-deep", "mediom", "lorge")
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
HUOGE = [pytest.mark.night, pytest.mark.skipif(MEMORY < 14e9, reason="262 million parameters in training take 11 GB")]
EVERY = [
    *(size for size in SIZES if size not in (*HEAVY, "huoge", "giont")),
    *(pytest.param(size, marks=pytest.mark.slow) for size in HEAVY),
    pytest.param("huoge", marks=HUOGE),
]


@pytest.mark.slow
@pytest.mark.parametrize("size", EVERY)
def test_every_size_trains_at_its_own_width_and_depth(size):
    """giont, 900 million parameters, is laid out without memory in test_versions."""
    config = experiment(**_whole("v6", size)).train
    data = dataset()
    rows = task_rows(config.network, data.views)
    subject = Training(data, np.ones(len(data.pairs)), rows, config, 0, torch.device("cpu"))
    counted = sum(p.numel() for p in subject.network.parameters())
    assert counted == sum(show_experiment.parameters(named("v6", size), 3, 3))
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items() if "blocks" in name}
    subject.run(on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=lambda: False)
    assert [row["step"] for row in subject.history] == [1, 2]
    # An untrained network gives every colour a tenth, and every side about a thirtieth.
    assert subject.history[0]["cross_entropy"] == pytest.approx(math.log(10), rel=1e-5)
    assert subject.history[0]["size_cross_entropy"] == pytest.approx(2 * math.log(30), rel=0.4)
    after = subject.network.state_dict()
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert len(moved) == 4 * config.network.layers


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_trains_and_predicts(workspace: Path, name):
    if name == "aa2-official":
        pytest.skip("its files are the user's; tests/tasks/sources/test_official_evaluation.py makes small ones")
    votes = {"answers": {"views": 2}, "limit": 2}
    config = experiment(dataset=name, train=FEW, select={"limit": 2}, evaluations={"votes": votes})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fetch.main()
    _stages(config, prepare, augment, train, select)
    predict.main("final", "votes")
    first = sorted(tables.read_solutions("evaluation"))[:2]
    assert sorted(set(pd.read_parquet(paths.predictions("final", "votes"))["task"])) == first
    side = max(int(max(row)) for row in pd.read_parquet(paths.PAIRS)[["input_height", "input_width"]].to_numpy())
    assert side <= config.prepare.largest_side
    assert side > {30: 20, 20: 6, 6: 0}[config.prepare.largest_side]


@pytest.mark.slow
@pytest.mark.parametrize("finetuning", FINETUNINGS)
def test_every_fine_tuning_runs_at_smol(raw, finetuning):
    raw(puzzles())
    version = "v1" if finetuning in ("test-time", "test-time-10", "test-time-1") else "v3"  # The lab's are of v1.
    lists = {"prepare": {"evaluation_subset": ""}} if version == "v1" else {}  # Of tasks that are not in this set.
    _stages(experiment(**_whole(version, "smol")), prepare, augment, train, select)
    paths.OWN.mkdir(parents=True)
    for suffix in (".safetensors", ".json"):
        (paths.OWN / f"start{suffix}").write_bytes((paths.CHECKPOINTS / f"final{suffix}").read_bytes())
    values = merge(_whole(version, "smol"), {"augment": {"voting_views": 2}} | lists)
    config = experiment(finetuning=finetuning, **values)
    assert config.train.network == named(version, "smol").train.network
    fetch.copy_start(config.train.finetune.start)
    _stages(config, prepare, augment, train, select)
    predict.main("final", "votes")
    described = json.loads((paths.CHECKPOINTS / "final.json").read_text())
    assert (described["experiment"], described["step"]) == (f"{version}+{finetuning}/smol/aa1-6x6", 2)
    rows = pd.read_parquet(paths.predictions("final", "votes"))
    assert list(zip(rows["task"], rows["view"], strict=True)) == [("cccccccc", 0), ("cccccccc", 1)]
