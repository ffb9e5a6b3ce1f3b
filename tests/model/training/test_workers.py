"""Two processes against one: the same training, saved and resumed, and the same predictions."""

import json
import os
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from model.ops.process_group import Workers
from tasks import augment, prepare
from tasks.common import paths
from tasks.common.presets import merge
from tasks.machine import gpu_lock
from tests.conftest import ROOT, experiment, puzzles

pytestmark = pytest.mark.slow


def _environment(processes: int, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    settings = {"ARC_GPUS": str(processes), "ARC_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return kept | settings | more


def _stage(processes: int, *module: str, fails: bool = False, **more: str) -> str:
    command, environment = [sys.executable, "-m", *module], _environment(processes, **more)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def prepared(raw):
    resolved = experiment(train={"accumulation": 2, "batch": 4, "network": {"dropout": 0.1}})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    raw(puzzles())
    prepare.main()
    augment.main()
    return resolved


def test_two_workers_train_as_one_does_and_predict_the_same(prepared):
    weights, histories, answers = [], [], []
    for processes in (1, 2):
        _stage(processes, "tasks.train")
        final = paths.candidate(prepared.train.optimizer_steps)
        weights.append(load_file(final.with_suffix(".safetensors")))
        histories.append(pd.DataFrame(json.loads(paths.HISTORY.read_text())))
        if processes == 1:
            for suffix in (".safetensors", ".json"):
                (paths.CHECKPOINTS / f"final{suffix}").write_bytes(final.with_suffix(suffix).read_bytes())
    for processes in (1, 2):
        _stage(processes, "tasks.predict", "final", "votes")
        answers.append(pd.read_parquet(paths.predictions("final", "votes")))
    for name, ours in weights[1].items():
        assert torch.allclose(ours, weights[0][name], rtol=1e-4, atol=1e-6), name
    pd.testing.assert_frame_equal(*histories, rtol=1e-4)
    exact = ["task", "test", "view", "attempt", "height", "width", "cells"]
    assert len(answers[0]) == 8
    pd.testing.assert_frame_equal(answers[0][exact], answers[1][exact])
    for suffix in (".safetensors", ".json"):  # All predictions in one start, of two equal checkpoints.
        for other in ("best", "halfway"):
            (paths.CHECKPOINTS / f"{other}{suffix}").write_bytes((paths.CHECKPOINTS / f"final{suffix}").read_bytes())
    paths.predictions("final", "votes").unlink()
    _stage(2, "tasks.studies.predict_all")
    assert len(list(paths.PREDICTIONS.glob("*.parquet"))) == 6
    for checkpoint in ("final", "best"):
        ours = pd.read_parquet(paths.predictions(checkpoint, "votes"))
        pd.testing.assert_frame_equal(answers[0][exact], ours[exact])
    assert not list(paths.SCRATCH.glob("predict/*"))


def _trained(says: str = "", **more: str) -> tuple[dict[str, torch.Tensor], pd.DataFrame, dict[str, Any]]:
    """Weights of all candidates, history and probes."""
    assert says in _stage(int(more.get("ARC_GPUS", "2")), "tasks.train", **more)
    files = sorted(paths.CANDIDATES.glob("*.safetensors"))
    weights = {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}
    return weights, pd.DataFrame(json.loads(paths.HISTORY.read_text())), json.loads(paths.PROBES.read_text())


V8 = {
    "network": {
        "task_embedding": "added",
        "head_gains": "learned",
        "convolution": "3x3",
        "turns": 2,
        "hidden_dropout": 0.1,
    },
    "optimizer": {"table_weight_decay": 0.0},
    "noise_levels": {"exponent": 2.0},
    "loss_mean": "root-cells",
}


@pytest.mark.parametrize("mechanisms", [pytest.param({}, marks=pytest.mark.night, id="v3"), pytest.param(V8, id="v8")])
def test_two_workers_that_hold_a_part_each_train_as_one_does(prepared, mechanisms):
    stop = {"every": 4, "patience": 4, "improvement": 0.0}
    how = {"accumulation": 4, "batch": 2, "log_every": 4, "evaluated_weights": "ema", "early_stop": stop}
    resolved = experiment(train=merge(how, mechanisms), prepare={"validation_tasks": 1})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    prepare.main()
    weights, history, probes = _trained(ARC_GPUS="1")
    ours, our_history, our_probes = _trained(ARC_SHARD="1")
    assert list(ours) == list(weights)
    for name, tensor in ours.items():
        assert torch.allclose(tensor, weights[name], rtol=1e-4, atol=1e-6), name
    pd.testing.assert_frame_equal(our_history, history, rtol=1e-4)
    assert our_probes.keys() == probes.keys()
    for name, seen in probes.items():
        assert our_probes[name] == pytest.approx(seen, rel=1e-2), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs")
def test_two_gpus_that_hold_a_part_each_train_as_two_whole_ones_do(prepared):
    _, history, _ = _trained(ARC_DEVICE="cuda")
    _, ours, _ = _trained(ARC_DEVICE="cuda", ARC_SHARD="1")
    learned = ["loss", "cross_entropy", "size_cross_entropy", "gradient_norm"]
    pd.testing.assert_frame_equal(ours[learned], history[learned], rtol=0.05)  # bfloat16


@pytest.mark.parametrize(
    "then", [{"ARC_GPUS": "2", "ARC_SHARD": "1"}, pytest.param({"ARC_GPUS": "1"}, marks=pytest.mark.night)]
)
def test_a_training_in_parts_that_was_stopped_goes_on(prepared, then):
    resolved = experiment(train={"accumulation": 2, "batch": 4, "optimizer_steps": 80, "evaluated_weights": "ema"})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    weights, history, _ = _trained(ARC_GPUS="1")
    command, environment = [sys.executable, "-m", "tasks.train"], _environment(2, ARC_SHARD="1")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "update 8 of 80" not in (line := process.stdout.readline()):
            assert line
        process.terminate()
        process.stdout.read()
    assert len(list(paths.SCRATCH.glob("train/*/state-*.safetensors"))) == 1
    ours, our_history, _ = _trained("going on after update", **then)
    for name, tensor in ours.items():
        assert torch.allclose(tensor, weights[name], rtol=1e-3, atol=1e-5), name
    pd.testing.assert_frame_equal(our_history, history, rtol=1e-3)


def test_what_cannot_be_shared_out_is_refused(prepared):
    assert "needs more than one GPU" in _stage(1, "tasks.train", fails=True, ARC_SHARD="1")
    assert "ARC_SHARD is 'yes'; allowed are '0' and '1'" in _stage(1, "tasks.train", fails=True, ARC_SHARD="yes")
    resolved = experiment(train={"accumulation": 2, "batch": 4, "optimizer": {"name": "muon"}})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    assert "train.optimizer.name is 'muon'" in _stage(2, "tasks.train", fails=True, ARC_SHARD="1")


def test_an_update_that_cannot_be_shared_is_refused(prepared, monkeypatch):
    assert "train.accumulation is 2, but 3 GPUs share" in _stage(3, "tasks.train", fails=True)
    assert "ARC_GPUS is 'two'" in subprocess.run(
        [sys.executable, "-m", "tasks.train"], capture_output=True, text=True,
        env=os.environ | {"ARC_GPUS": "two", "PYTHONPATH": str(ROOT)},
    ).stderr  # fmt: skip
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    worker = Workers()
    worker.count = 2
    assert [list(worker.mine(n)) for n in (2, 4)] == [[1], [1, 3]]


def test_the_workers_end_without_a_crash():
    """Eight exits, each of which crashed about one time in four before the process group was destroyed."""
    command = [sys.executable, "-c", "from model.ops.process_group import Workers; w = Workers(); w.wait(); w.wait()"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "8", "--no-python"]
    done = subprocess.run([*run, *command], cwd=ROOT, capture_output=True, text=True, env=_environment(1), timeout=300)
    assert done.returncode == 0, done.stderr


def test_locks_of_all_gpus_outlive_the_exec_that_torchrun_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("ARC_LOCKS", str(tmp_path))
    monkeypatch.setenv("ARC_LOCK_CPU", "1")
    lock = gpu_lock.lock_file(torch.device("cpu"))
    command = (
        "import os, torch; from tasks.machine.gpu_lock import keep_across_exec, take_all; "
        "take_all([torch.device('cpu')]); keep_across_exec(); "
        "os.execv('/bin/sh', ['sh', '-c', 'echo gone on; exec sleep 60'])"
    )
    with subprocess.Popen([sys.executable, "-c", command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert "taken" in process.stdout.readline()
        assert process.stdout.readline() == "gone on\n"
        assert (gpu_lock.holder(lock) or {}).get("process") == process.pid
        process.kill()
    assert gpu_lock.holder(lock) is None
