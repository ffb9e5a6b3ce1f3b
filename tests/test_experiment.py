"""Whole experiments through DVC: what goes stale, what a typo says, and trainings that are killed."""

import hashlib
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

from tasks.params import merge
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.slow
PARTS = ("model", "tasks", "data/own", "dvc.yaml", "presets.yaml", "pyproject.toml")
FEW = {"predict": {"checkpoints": ["best", "halfway", "final"], "evaluations": ["attempts", "votes"]}}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with the small experiment, run once by `dvc repro`."""
    root = tmp_path_factory.mktemp("project")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, root / part)
    _write(root)
    _run(root, "dvc", "init", "--no-scm", "-q")
    first = _run(root, "dvc", "repro")
    assert "Running stage 'publish'" in first
    return root


def _environment(root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ARC_", "MLFLOW_", "PREFECT_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "ARC_LOCKS": str(root / "locks"), "OMP_NUM_THREADS": "1"}


def _run(root: Path, *command: str, fails: bool = False) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=_environment(root), timeout=600)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def _write(root: Path, **changes) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(merge(merge(SMALL, FEW), changes)))


def _ran(output: str) -> set[str]:
    lines = (line for line in output.splitlines() if line.startswith(("Running stage '", "Restored stage '")))
    return {line.split("'")[1].split("@")[0] for line in lines}


def test_everything_is_there_and_a_second_repro_runs_nothing(project):
    for name in ("best-attempts", "halfway-votes", "final-votes"):
        assert (project / f"data/scores/{name}.json").exists()
    assert (project / "data/reports/report.html").stat().st_size > 10_000
    assert "up to date" in _run(project, "dvc", "repro")


@pytest.mark.parametrize(
    ("changes", "ran"),
    [
        ({"evaluations": {"votes": {"steps": 3}}}, {"check", "params", "predict", "score", "report", "publish"}),
        (
            {"train": {"learning_rate": 1e-3}},
            {"check", "params", "train", "select", "predict", "score", "report", "publish"},
        ),
        ({"report": {"tasks_drawn": 2}}, {"check", "params", "report", "publish"}),
    ],
)
def test_only_what_a_change_concerns_runs(project, changes, ran):
    _write(project, **changes)
    assert _ran(_run(project, "dvc", "repro")) == ran
    _write(project)
    _run(project, "dvc", "repro")


def test_an_unused_preset_makes_nothing_stale_and_a_used_one_does(project):
    path = project / "presets.yaml"
    before = path.read_text()
    presets = yaml.safe_load(before)
    presets["sizes"]["smol"]["train"]["batch"] = 7
    path.write_text(yaml.safe_dump(presets))
    assert "up to date" in _run(project, "dvc", "repro")
    presets["sizes"]["tiny"]["train"]["ema_warmup_steps"] = 17
    path.write_text(yaml.safe_dump(presets))
    assert _ran(_run(project, "dvc", "repro")) >= {"params", "train", "select"}
    path.write_text(before)
    assert "> python -m tasks.train" not in _run(project, "dvc", "repro")  # Taken from the cache.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"lerning_rate": 1}}, "unknown key train.lerning_rate (given: 1)"),
        ({"version": "v33"}, "version is 'v33'"),
        ({"sed": 1}, "did you mean 'seed'?"),
    ],
)
def test_a_typo_ends_repro_at_once(project, changes, says):
    _write(project, **changes)
    output = _run(project, "dvc", "repro", fails=True)
    assert says in output
    assert "Running stage 'fetch'" not in output
    _write(project)
    assert not _ran(_run(project, "dvc", "repro"))


def _digest(root: Path) -> dict[str, str]:
    files = [*sorted((root / "data/checkpoints/candidates").iterdir()), root / "data/checkpoints/history.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(project):
    _write(project, train={"optimizer_steps": 400, "log_every": 20, "save_seconds": 0})
    for stage in ("check", "params", "fetch", "prepare", "augment"):
        _run(project, "dvc", "repro", "-s", stage)
    train = [sys.executable, "-m", "tasks.train"]
    _run(project, *train)
    whole = _digest(project)
    _run(project, *train)
    assert _digest(project) == whole

    draws = random.Random(4)
    kills = 0
    while kills < 5:
        process = subprocess.Popen(
            train, cwd=project, env=_environment(project), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        states = project / ".scratch" / "train"
        deadline = time.monotonic() + 60
        while not list(states.glob("*/state.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(draws.uniform(0.05, 0.5) + (3.0 if kills else 0.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    output = _run(project, *train)
    assert kills >= 3
    assert "going on after update" in output
    assert _digest(project) == whole
    assert not list((project / ".scratch" / "train").iterdir())
    _write(project)
    _run(project, "dvc", "repro")
