"""Each stage alone, in a folder that holds nothing but its dependencies: it runs, and opens nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro

from tasks.common.presets import merge
from tests.conftest import ROOT, SMALL
from tests.support.every_read import CHANGES, copy_part
from tests.support.small_experiment import FILES

pytestmark = pytest.mark.slow
HOOK = """
import os, runpy, sys
log = os.open(os.environ["READS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, mode, flags = arguments
        reads = not flags & (os.O_WRONLY | os.O_CREAT)
        os.write(log, b"%s %s\\n" % (b"reads" if reads else b"writes", os.path.abspath(os.fsencode(path))))

sys.addaudithook(hook)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
BESIDE = {
    "train": {"dvc.yaml"},  # The digest of the code that saved a resume state: it decides where a training resumes.
    "publish": {"mlflow.db"},
}
"""Files that a stage may read although they are no dependency, each with the reason."""
SCRATCH = (".scratch/", "mlartifacts/", "mlflow.db", "locks/")


class Project:
    """All files that there are, and a run of one stage with some of them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, stage: Any) -> list[tuple[str, Path]]:
        """Run the stage in a new folder with its dependencies; returns what it opened."""
        alone = self.root.parent / f"alone-{stage.addressing}"
        alone.mkdir()
        named = [dep.def_path for dep in stage.deps]
        packages = [
            path.relative_to(ROOT).as_posix()
            for room in ("model", "tasks")
            for path in (ROOT / room).rglob("__init__.py")
        ]
        for name in [*named, *packages, *BESIDE.get(stage.name.split("@")[0], ())]:
            copy_part(self.root, alone, name)
        log = alone.with_suffix(".reads")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ARC_", "MLFLOW_", "PREFECT_", "PYTHON"))}
        environment = {
            **kept,
            "PYTHONPATH": str(alone),
            "READS": str(log),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-c", HOOK, *stage.cmd.split()[2:]]
        done = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"{stage.addressing} with nothing but its dependencies:\n{done.stdout}{done.stderr}"
        )
        for out in stage.outs:
            copy_part(alone, self.root, out.def_path)
        rows = [line.split(" ", 1) for line in log.read_text(errors="surrogateescape").splitlines()]
        return [(what, Path(path)) for what, path in rows]


def foreign(stage: Any, opened: list[tuple[str, Path]], alone: Path) -> set[str]:
    """What the stage read beside its dependencies, its own outputs, scratch, and what is installed."""
    parameters = {dep.def_path for dep in stage.deps if isinstance(dep, ParamsDependency)}
    named = {dep.def_path for dep in stage.deps} | {out.def_path for out in stage.outs} | parameters
    named |= BESIDE.get(stage.name.split("@")[0], set())
    found = set()
    for what, path in opened:
        inside = path.relative_to(alone).as_posix() if path.is_relative_to(alone) else None
        if inside is None:
            installed = path.is_relative_to(sys.prefix) or path.is_relative_to(sys.base_prefix)
            found |= {str(path)} if path.is_relative_to(ROOT) and not installed else set()
        elif what == "reads" and path.suffix not in (".py", ".pyc") and not inside.startswith(SCRATCH):
            declared = any(inside == name or inside.startswith(f"{name}/") for name in named)
            found |= set() if declared or not path.is_file() else {inside}
    return found


def test_a_stage_reads_its_dependencies_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "all"
    for part in ("model", "tasks", "dvc.yaml", "presets.yaml", "pyproject.toml", "data/own"):
        copy_part(ROOT, root, part)
    for name, contents in FILES.items():
        (root / "data" / "own" / name).write_text(json.dumps(contents))
    (root / "data" / "own" / "mine.txt").write_text("aaaaaaaa\nbbbbbbbb\n")
    (root / "params.yaml").write_text(yaml.safe_dump(merge(SMALL, CHANGES)))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)
    monkeypatch.chdir(root)
    with Repo(".") as repo:
        stages = plan_repro(repo.index.graph)
    assert len(stages) == 12
    project, read = Project(root), 0
    for stage in stages:
        opened = project.run(stage)
        assert foreign(stage, opened, tmp_path / f"alone-{stage.addressing}") == set(), stage.addressing
        read += sum(what == "reads" for what, _ in opened)
    assert read > 500, "the hook sees what is opened"
    assert (root / "data/raw/training_subset.txt").exists()
