"""Whole experiments through DVC: what goes stale, and what a typo says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.common.presets import merge
from tasks.tracking.addresses import sqlite_address
from tests.conftest import ROOT, SMALL
from tests.support.published_experiment import client, runs
from tests.support.store_contents import contents

pytestmark = pytest.mark.slow
PARTS = ("model", "tasks", "data/own", "dvc.yaml", "presets.yaml", "pyproject.toml")
FEW = {"predict": {"checkpoints": ["best", "halfway", "final"], "evaluations": ["votes"]}}


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
    shutil.copy(root / "dvc.lock", root / "kept.lock")
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


def _restore(root: Path) -> None:
    """Back to what the fixture left."""
    _write(root)
    shutil.copy(root / "kept.lock", root / "dvc.lock")
    _run(root, "dvc", "checkout", "-f", "-q")
    _run(root, "dvc", "repro")  # What is published is kept by MLflow, not by DVC.


def _ran(output: str) -> set[str]:
    lines = (line for line in output.splitlines() if line.startswith(("Running stage '", "Restored stage '")))
    return {line.split("'")[1].split("@")[0] for line in lines}


def test_everything_is_there_and_a_second_repro_runs_nothing(project):
    for name in ("best-votes", "halfway-votes", "final-votes"):
        assert (project / f"data/scores/{name}.json").exists()
    assert (project / "data/reports/report.html").stat().st_size > 10_000
    assert "up to date" in _run(project, "dvc", "repro")


def test_without_its_database_make_repro_only_publishes_and_all_runs_are_there_again(project):
    where = client(sqlite_address(project / "mlflow.db"))
    before = contents(where)
    assert len(before["runs"]) == 1 + 3
    assert len(before["models"]) == len(before["versions"]) == 3
    ids = {run.info.run_id for run in runs(where)}
    for file in project.glob("mlflow.db*"):
        file.unlink()
    shutil.rmtree(project / "mlartifacts")
    recipe = (ROOT / "Makefile").read_text().partition("\nrepro: setup\n")[2].partition("\n\n")[0]
    said = [_run(project, "sh", "-c", line.strip()) for line in recipe.splitlines()]
    assert _ran("".join(said)) == set()
    assert "published to" in "".join(said)
    # MLflow keeps connections by address: at the old one it would read the deleted file.
    shutil.copy(project / "mlflow.db", project / "again.db")
    where = client(sqlite_address(project / "again.db"))
    assert contents(where) == before
    assert not ids & {run.info.run_id for run in runs(where)}


@pytest.mark.parametrize(
    ("changes", "ran"),
    [
        ({"evaluations": {"votes": {"steps": 3}}}, {"params", "predict", "score", "report", "publish"}),
        pytest.param(
            {"train": {"optimizer": {"learning_rate": 1e-3}}},
            {"params", "train", "select", "predict", "score", "report", "publish"},
            marks=pytest.mark.night,  # The next test trains again too.
        ),
        ({"report": {"tasks_drawn": 2}}, {"params", "report", "publish"}),
    ],
)
def test_only_what_a_change_concerns_runs(project, changes, ran):
    _write(project, **changes)
    assert _ran(_run(project, "dvc", "repro")) == ran
    _restore(project)


def test_an_unused_preset_makes_nothing_stale_and_a_used_one_does(project):
    path = project / "presets.yaml"
    before = path.read_text()
    presets = yaml.safe_load(before)
    presets["sizes"]["smol"]["train"]["batch"] = 7
    path.write_text(yaml.safe_dump(presets))
    assert _ran(_run(project, "dvc", "repro")) <= {"params", "publish"}  # publish asks the store; it runs no training.
    presets["sizes"]["tiny"]["train"]["ema"]["warmup_steps"] = 17
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
