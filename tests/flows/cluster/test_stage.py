"""One stage over a shared DVC remote: taken from there, waited for, computed once; no Prefect server answers here."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.flows_lab import free_port, until

pytestmark = pytest.mark.slow
PROJECT = """
stages:
  count:
    cmd: python count.py
    deps: [count.py, given.txt]
    outs: [counted.txt]
"""
COUNT = """
import os, pathlib
with open(os.environ["COUNTS"], "a") as file:
    file.write("computed\\n")
pathlib.Path("counted.txt").write_text(pathlib.Path("given.txt").read_text())
"""


class Machines:
    """Clones of a DVC project with caches of their own, which share a folder as DVC's remote."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote, self.counts = folder, folder / "objects", folder / "counts"
        self.remote.mkdir()
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("ARC_", "PREFECT", "DVC"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "COUNTS": str(self.counts),
            "DVC_NO_ANALYTICS": "1",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
            "PREFECT_CLIENT_MAX_RETRIES": "0",
        }

    def clone(self, name: str, given: str = "1") -> Path:
        path = self.folder / name
        path.mkdir()
        for file, text in {"dvc.yaml": PROJECT, "count.py": COUNT, "given.txt": given}.items():
            (path / file).write_text(text)
        for command in ("git init -q", "dvc init -q", f"dvc remote add -q -d shared {self.remote}"):
            subprocess.run(command.split(), cwd=path, check=True, env=self.environment)
        return path

    def start(self, clone: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "flows.cluster.stage", "count"]
        piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=clone, env=self.environment, **piped)

    def run(self, clone: Path, code: int = 0) -> str:
        process = self.start(clone)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == code, text
        return text

    def computed(self) -> int:
        return len(self.counts.read_text().splitlines()) if self.counts.exists() else 0


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def test_what_one_machine_computed_the_next_one_takes(machines: Machines) -> None:
    a, b, c = machines.clone("a"), machines.clone("b"), machines.clone("c", given="2")
    assert "computed without a lease, since the server does not answer" in machines.run(a)
    assert "is cached" in machines.run(b)
    assert (b / "counted.txt").read_text() == "1"
    assert machines.computed() == 1
    machines.run(c)
    assert (c / "counted.txt").read_text() == "2"
    assert machines.computed() == 2
    # Of the run-cache, only the entry of the stage itself has come.
    assert len(list((b / ".dvc" / "cache" / "runs").glob("*/*"))) == 1


def test_a_stage_waits_while_the_remote_is_away(machines: Machines) -> None:
    a = machines.clone("a")
    away = machines.remote.rename(machines.folder / "away")
    process = machines.start(a)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("count waits, since DVC's remote is away: ")
    assert str(machines.remote) in line
    time.sleep(1)
    assert process.poll() is None
    assert machines.computed() == 0
    away.rename(machines.remote)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "goes on" in text
    assert machines.computed() == 1
    assert list(machines.remote.glob("files/md5/*/*"))


def test_a_failed_stage_fails_although_the_remote_went_away(machines: Machines) -> None:
    a = machines.clone("a")
    (a / "count.py").write_text(f"import shutil, sys\nshutil.rmtree({str(machines.remote)!r})\nsys.exit(7)\n")
    assert "exited with 7" in machines.run(a, code=255)


def test_a_stage_whose_remote_went_away_is_done_and_shared_later(machines: Machines) -> None:
    a = machines.clone("a")
    (a / "count.py").write_text(f"{COUNT}\nimport shutil\nshutil.rmtree({str(machines.remote)!r})\n")
    assert "count is not shared yet" in machines.run(a)
    assert not machines.remote.exists(), "a folder that is not mounted must not be made"
    machines.remote.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cluster.dvc_remote", "push"], cwd=a, env=machines.environment
    )
    assert done.returncode == 0
    assert list(machines.remote.glob("runs/*/*/*"))


def test_a_stage_that_waits_ends_at_once_when_it_is_told_to(machines: Machines) -> None:
    a = machines.clone("a")
    shutil.rmtree(machines.remote)
    process = machines.start(a)
    assert process.stdout
    process.stdout.readline()
    process.terminate()
    until(lambda: process.poll() is not None, 3)
