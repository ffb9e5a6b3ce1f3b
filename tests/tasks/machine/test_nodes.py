"""One training by two machines, each with files and scratch of its own: the losses of one, also once stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tasks import augment, prepare
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.machine import nodes
from tests.conftest import ROOT, experiment, puzzles
from tests.support.ports import free_port

STEPS = 40


@pytest.fixture
def machines(raw: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with the same prepared data; the current folder is the first."""
    resolved = experiment(train={"accumulation": 2, "batch": 4, "optimizer_steps": STEPS, "log_every": 4})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    raw(puzzles())
    prepare.main()
    augment.main()
    second = tmp_path_factory.mktemp("second") / "files"
    shutil.copytree(Path.cwd(), second)
    return Path.cwd(), second


def start(folder: Path, **variables: str) -> "subprocess.Popen[str]":
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    given = {"ARC_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.train"],
        cwd=folder,
        env=kept | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def both(machines: tuple[Path, Path]) -> "list[subprocess.Popen[str]]":
    shared = {"ARC_NODES": "2", "ARC_MEETING": f"127.0.0.1:{free_port()}"}
    return [start(folder, ARC_NODE=str(number), **shared) for number, folder in enumerate(machines)]


def trained(folder: Path) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    files = sorted((folder / paths.CANDIDATES).glob("*.safetensors"))
    weights = {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}
    return weights, pd.DataFrame(json.loads((folder / paths.HISTORY).read_text()))


@pytest.mark.slow
def test_two_machines_train_as_one_does(machines: tuple[Path, Path]) -> None:
    alone = start(machines[0])
    text, _ = alone.communicate(timeout=200)
    assert alone.returncode == 0, text
    weights, history = trained(machines[0])
    shutil.rmtree(machines[0] / paths.CHECKPOINTS)
    processes = both(machines)
    assert processes[0].stdout
    while "update 8 of" not in (line := processes[0].stdout.readline()):
        assert line, processes[1].communicate(timeout=60)
    processes[0].terminate()
    for process in processes:
        process.communicate(timeout=100)
        assert process.returncode != 0
    # Only the first machine has a state; the second gets it.
    assert list(machines[0].glob(".scratch/train/*/state-*"))
    assert not list(machines[1].glob(".scratch/train/*/state-*"))
    for process in (processes := both(machines)):
        text, _ = process.communicate(timeout=200)
        assert process.returncode == 0, text
        assert "going on after update" in text
    ours, our_history = trained(machines[0])
    assert list(ours) == list(weights)
    difference = max(float((ours[name] - tensor).abs().max()) for name, tensor in weights.items())
    loss = float((our_history["loss"] - history["loss"]).abs().max())
    print(f"largest difference: weights {difference:.1e}, losses {loss:.1e}")
    for name, tensor in weights.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-3, atol=1e-5), name
    pd.testing.assert_frame_equal(our_history, history, rtol=1e-3)
    for folder in machines:
        assert not [path for path in folder.glob(".scratch/train/*") if path.is_dir()]
    assert not (machines[1] / paths.CANDIDATES).exists(), "the first machine alone writes outputs"


@pytest.mark.slow
def test_machines_with_other_data_are_refused(machines: tuple[Path, Path]) -> None:
    resolved = yaml.safe_load((machines[1] / paths.EXPERIMENT).read_text())
    resolved["seed"] = 1
    (machines[1] / paths.EXPERIMENT).write_text(yaml.safe_dump(resolved))
    for process in both(machines):
        text, _ = process.communicate(timeout=200)
        assert process.returncode != 0
        assert "the machines have not the same training" in text


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"ARC_NODES": "two"}, "ARC_NODES is 'two'"),
        ({"ARC_NODES": "2", "ARC_NODE": "2"}, "allowed are 0 to 1"),
        ({"ARC_NODES": "2"}, "ARC_MEETING is ''; allowed is HOST:PORT"),
        ({"ARC_NODES": "2", "ARC_MEETING": "host"}, "allowed is HOST:PORT"),
        ({"ARC_NODES": "2", "ARC_MEETING": "host:99999"}, "allowed is HOST:PORT"),
        ({"ARC_NODES": "2", "ARC_MEETING": "--x:1"}, "allowed is HOST:PORT"),
        ({"ARC_NODES": "2", "ARC_MEETING": "host:0"}, "ARC_MEETING is 'host:0'; allowed is HOST:PORT"),
    ],
)
def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(StageError, match=says):
        nodes.options()


def test_one_machine_needs_no_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARC_NODES", raising=False)
    assert nodes.options() == []
