"""A training that is killed again and again ends with the bytes of an unbroken one."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tasks import augment, fetch, prepare
from tasks.common import paths
from tests.conftest import ROOT, experiment

pytestmark = pytest.mark.slow


@pytest.fixture
def prepared(workspace) -> Path:
    """A folder with everything that the stage train reads."""
    resolved = experiment(train={"optimizer_steps": 400, "log_every": 20, "save_seconds": 0})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    for stage in (fetch, prepare, augment):
        stage.main()
    return workspace


def _start(root: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ARC_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tasks.train"]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _train(root: Path) -> str:
    process = _start(root)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _digest(root: Path) -> dict[str, str]:
    files = [*sorted((root / "data/checkpoints/candidates").iterdir()), root / "data/checkpoints/history.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _saved(root: Path) -> list[int]:
    """When each resume state was saved, in nanoseconds."""
    return [state.stat().st_mtime_ns for state in (root / ".scratch" / "train").glob("*/state.safetensors")]


def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(prepared):
    project = prepared
    _train(project)
    whole = _digest(project)
    _train(project)
    assert _digest(project) == whole

    draws = random.Random(4)
    for _ in range(5):
        before = _saved(project)
        process = _start(project)
        deadline = time.monotonic() + 60
        while _saved(project) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(draws.uniform(0.0, 0.2))
        assert process.poll() is None, "the training ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    output = _train(project)
    assert "going on after update" in output
    assert _digest(project) == whole
    assert not list((project / ".scratch" / "train").iterdir())


def test_a_state_that_other_code_saved_is_not_gone_on_from(prepared):
    process = _start(prepared)
    deadline = time.monotonic() + 60
    while not (states := list((prepared / ".scratch" / "train").glob("*/state.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    with safe_open(states[0], framework="pt") as file:
        seen = file.metadata()
    save_file(load_file(states[0]), states[0], metadata=seen | {"code": "0" * 64})
    left = states[0].parent / "candidates" / "step-0000007.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text("{}")
    output = _train(prepared)
    assert "saved by other code: it starts anew" in output
    assert "going on after" not in output
    assert left.name not in _digest(prepared)
