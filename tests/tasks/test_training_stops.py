"""A training that SIGTERM stops, at whatever moment and twice, loses nothing and says so."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tasks import augment, fetch, prepare
from tasks.common import paths
from tests.conftest import ROOT, experiment

pytestmark = pytest.mark.slow
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "ARC_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "ARC_LIVE": "0"}


@pytest.fixture
def prepared(workspace: Path) -> Path:
    """A folder with everything that the stage train reads."""
    config = experiment(train={"optimizer_steps": 200, "log_every": 5})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for stage in (fetch, prepare, augment):
        stage.main()
    return workspace


@pytest.mark.parametrize("stops", [5, pytest.param(100, marks=pytest.mark.night)])
def test_two_signals_at_random_moments_lose_nothing_and_end_with_a_message(prepared: Path, stops: int) -> None:
    log = prepared / "log"
    environment = os.environ | ENVIRONMENT | {"ARC_SAVE_SECONDS": "3600", "LOG": str(log)}
    command = [sys.executable, "-m", "tests.support.stopped_training", str(stops), "11"]
    done = subprocess.run(command, cwd=prepared, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + log.read_text()[-3000:]
    print(done.stdout)
    ended = json.loads(done.stdout)["ended"]
    assert ended["saved"] > 0
    assert ended["saved"] + ended.get("nothing to save", 0) == stops


@pytest.mark.parametrize("starts", [3, pytest.param(20, marks=pytest.mark.night)])
def test_a_signal_while_the_process_starts(prepared: Path, starts: int) -> None:
    """Before the stage has begun, its exit code alone says what ended it; nothing is there to lose."""
    draws, command = random.Random(5), [sys.executable, "-m", "tasks.train"]
    codes = []
    for _ in range(starts):
        with (prepared / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=prepared, env=os.environ | ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
            )
        time.sleep(draws.uniform(0.1, 5.0))
        os.killpg(process.pid, signal.SIGTERM)  # As `timeout` does.
        process.terminate()
        codes.append(process.wait(timeout=60))
        text = (prepared / "log").read_text()
        assert codes[-1] in (0, 1, -signal.SIGTERM)
        if codes[-1] == 1:
            assert text.strip().splitlines()[-1].startswith("train: stopped"), text
            assert "Traceback" not in text
        if codes[-1] == -signal.SIGTERM:
            # The stage had not begun, or had ended.
            assert not text or text.splitlines()[-1].startswith("self_conditioning: "), text
    print(codes)


def test_a_signal_while_the_compiler_works_does_not_wait_for_it(prepared: Path) -> None:
    script = """
import time
from model.training.trainer import Training
from tasks import train
def slow(self, batches):
    print("compiling", flush=True)
    time.sleep(60)
Training.update = slow
train.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=prepared,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    assert any("compiling" in line for line in process.stdout)
    began = time.monotonic()
    process.terminate()
    assert process.wait(timeout=30) == 1
    assert time.monotonic() - began < 20
    assert process.stderr.read() == "train: stopped by SIGTERM; start it again\n"
    assert [*prepared.glob(".scratch/cost/*.json")], "the time that it took is kept"
    assert not [*prepared.glob(".scratch/train/*.lock")]
