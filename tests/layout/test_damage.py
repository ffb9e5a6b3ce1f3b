"""No damaged file passes: every file that a stage reads is truncated, and a bit of it flipped, one by one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.common.presets import merge
from tests.conftest import ROOT, SMALL
from tests.support.every_read import CHANGES, copy_part
from tests.support.small_experiment import FILES

pytestmark = [pytest.mark.slow, pytest.mark.night]
STAGES = (
    *("fetch", "prepare", "augment", "train", "select", "predict best votes", "predict best attempts"),
    *("score best votes", "score best attempts", "report", "publish"),
)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ARC_DEVICE": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
THE_USERS_OWN = ("data/own/", "params.yaml", "presets.yaml", "dvc.yaml", "dvc.lock", "pyproject.toml")
"""What people write and edit, and DVC's own record: there is nothing to compare them with."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that `dvc repro` has finished."""
    root = tmp_path_factory.mktemp("finished") / "root"
    for part in ("model", "tasks", "dvc.yaml", "presets.yaml", "pyproject.toml", "data/own"):
        copy_part(ROOT, root, part)
    for name, contents in FILES.items():
        (root / "data" / "own" / name).write_text(json.dumps(contents))
    (root / "data" / "own" / "mine.txt").write_text("aaaaaaaa\nbbbbbbbb\n")
    (root / "params.yaml").write_text(yaml.safe_dump(merge(SMALL, CHANGES)))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(root)}
    for command in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *command], cwd=root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.mark.parametrize("stage", STAGES)
def test_no_damaged_file_passes(finished: Path, stage: str) -> None:
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.damaged_stage", *stage.split()]
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    for name, outcome in outcomes.items():
        print(f"{stage}: {name}: {outcome}")
    read = [name for name in outcomes if not name.startswith(THE_USERS_OWN)]
    assert read
    assert [name for name in read if not outcomes[name].startswith(("refused: ", "named"))] == []
    for name in [name for name in read if outcomes[name] != "named"]:
        path = name.split(" ")[0]
        folder = path.rsplit("/", 1)[0]
        assert "\n" not in outcomes[name]
        assert path in outcomes[name] or folder in outcomes[name], name
