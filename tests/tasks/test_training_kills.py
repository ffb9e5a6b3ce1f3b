"""A training that is killed again and again ends with the bytes of an unbroken one."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from model.training import resume_states
from tasks import augment, fetch, prepare, train
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.common.stage import StageError
from tests.conftest import ROOT, experiment

pytestmark = pytest.mark.slow
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "ARC_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def prepared(workspace) -> Path:
    """A folder with everything that the stage train reads."""
    resolved = experiment(train={"optimizer_steps": 200, "log_every": 10})
    paths.EXPERIMENT.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    for stage in (fetch, prepare, augment):
        stage.main()
    return workspace


def _start(root: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "ARC_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "ARC_SAVE_SECONDS": "0",
    }
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


def _saved(root: Path) -> list[str]:
    """Names of the resume states, each with its update and digest."""
    return sorted(state.name for state in (root / ".scratch" / "train").glob("*/state-*.safetensors"))


@pytest.mark.night
def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(prepared):
    project = prepared
    config = experiment(train={"optimizer_steps": 400, "log_every": 20})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
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


def _kill_after_a_save(root: Path) -> Path:
    """Scratch of a training that was killed once it had saved."""
    process = _start(root)
    deadline = time.monotonic() + 60
    while not (states := list((root / ".scratch" / "train").glob("*/state-*.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    return states[0].parent


def test_a_state_that_other_code_saved_is_not_gone_on_from(prepared):
    scratch = _kill_after_a_save(prepared)
    for path in scratch.glob("state-*"):
        tensors, plain = resume_states.read(path)
        path.unlink()
        writer = resume_states.Writer(scratch, "0" * 64)
        writer.save(tensors, plain)
        writer.wait()
    left = scratch / "candidates" / "step-0000007.json"
    left.parent.mkdir(exist_ok=True)
    left.write_text("{}")
    output = _train(prepared)
    assert "saved by other code: it starts anew" in output
    assert "going on after" not in output
    assert left.name not in _digest(prepared)


def test_the_same_training_waits_and_says_for_whom(prepared):
    _train(prepared)
    whole = _digest(prepared)
    first = _start(prepared)
    assert first.stdout is not None
    while "update 10 of" not in (line := first.stdout.readline()):
        assert line
    output = _train(prepared)  # Both would remove the scratch of the other.
    first.communicate()
    assert first.returncode == 0
    assert "waiting for the same training: held by stage train of v3/tiny/aa1-6x6" in output
    assert f"(process {first.pid} in" in output
    assert _digest(prepared) == whole


@pytest.mark.parametrize(
    "moment", ["copy", *(pytest.param(m, marks=pytest.mark.night) for m in ("write_json", "rename"))]
)
def test_a_death_while_the_results_are_moved_loses_nothing(prepared, moment):
    _train(prepared)
    whole = _digest(prepared)
    script = f"""
import os, signal, shutil
from pathlib import Path
from model.storage import atomic
from tasks import train
calls = 0
def dies(*arguments, **named):
    global calls
    calls += 1
    if calls == 2 or {moment!r} == "rename":
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
if {moment!r} == "rename":
    shutil.rmtree, original = (lambda path, ignore_errors=False: None if ignore_errors else dies()), None
else:
    original = getattr(atomic, {moment!r})
    def watch(*a, **k):
        return dies(*a, **k) if "data/checkpoints" in str(a) else original(*a, **k)
    setattr(atomic, {moment!r}, watch)
train.main()
"""
    environment = os.environ | ENVIRONMENT
    shutil.rmtree(prepared / "data" / "checkpoints")
    done = subprocess.run([sys.executable, "-c", script], cwd=prepared, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    _train(prepared)
    assert _digest(prepared) == whole
    assert not list((prepared / ".scratch" / "train").iterdir())


def test_a_lost_candidate_is_not_passed_over(prepared):
    scratch = _kill_after_a_save(prepared)
    process = _start(prepared)
    while not list(scratch.glob("candidates/*100.json")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    process.kill()
    process.communicate()
    (scratch / "candidates" / "step-0000100.json").unlink()
    output = _train(prepared)
    assert "step-0000100.json cannot be read" in output
    assert "going on after" not in output
    assert len(_digest(prepared)) == 5


def test_the_interval_of_the_saves_is_checked_and_no_part_of_the_training(prepared, monkeypatch):
    monkeypatch.setenv("ARC_SAVE_SECONDS", "0.5")
    assert train.save_seconds() == 0.5
    for wrong in ("-1", "nan", "soon", "inf"):
        monkeypatch.setenv("ARC_SAVE_SECONDS", wrong)
        with pytest.raises(StageError, match=f"ARC_SAVE_SECONDS is '{wrong}'; allowed is"):
            train.save_seconds()
    monkeypatch.delenv("ARC_SAVE_SECONDS")
    assert train.save_seconds() == 60
    assert "save" not in str(experiment().train.model_dump())
    with pytest.raises(ConfigurationError, match="save_seconds is now the environment variable ARC_SAVE_SECONDS"):
        experiment(train={"save_seconds": 5})


@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=pytest.mark.night)])
def test_kills_during_updates_saves_and_moves_change_no_byte(prepared, kills):
    config = experiment(train={"optimizer_steps": 80, "log_every": 10, "candidates": 4})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    log = prepared / "log"
    environment = os.environ | ENVIRONMENT | {"ARC_SAVE_SECONDS": "0", "LOG": str(log)}
    command = [sys.executable, "-m", "tests.support.killed_training", str(kills), "7"]
    done = subprocess.run(command, cwd=prepared, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + log.read_text()[-3000:]
    print(done.stdout)
    found = json.loads(done.stdout)
    assert sum(found["killed"].values()) == kills
    assert set(found["killed"]) == {"any", "saves", "moves"}
    assert found["files"] == 10
