"""A DVC project of one stage in several clones, with caches of their own, which share a folder as DVC's remote."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.support.ports import free_port

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
    """The clones, their remote, and how often the stage was computed. No Prefect server answers them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote, self.counts = folder, folder / "objects", folder / "counts"
        self.remote.mkdir()
        self.environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("ARC_", "PREFECT", "DVC"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
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
