"""A copy of the project in a folder of its own, with its own server, worker and queue, for tests that kill things."""

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
NAME = "v3/tiny/aa1-6x6"
SMALL = {
    "train.candidates": 2,
    "train.warmup_steps": 2,
    "train.network.width": 16,
    "train.network.heads": 1,
    "train.network.layers": 1,
    "train.network.feed_forward": 16,
    "train.network.size_hidden": 8,
    "train.batch": 8,
    "evaluations.attempts.steps": 2,
    "select.steps": 2,
    "predict.checkpoints": "[best]",
    "predict.evaluations": "[attempts]",
}
SHORT = {**SMALL, "train.optimizer_steps": 20}
LONG = {**SMALL, "train.optimizer_steps": 50000, "train.log_every": 20}
"""Minutes: nothing waits for its end."""
ACTIVE = ("RUNNING", "PENDING", "CANCELLING")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Lab:
    """One project, server, worker."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in files.stdout.split("\0")[:-1]:
            if (ROOT / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((ROOT / name).read_bytes())
        self.port = free_port()
        # Without what a shell or the Makefile sets: the project itself must do.
        ours = ("PREFECT", "ARC_", "MLFLOW", "GIT_", "DVC_", "DO_NOT_TRACK")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment = {
            **inherited,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "PREFECT_SERVER_API_PORT": str(self.port),
            "ARC_LOCK_CPU": "1",
            "ARC_SAVE_SECONDS": "1",
            "ARC_LOCKS": str(folder / ".scratch" / "locks"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **environment,
        }
        self.port = int(self.environment["PREFECT_SERVER_API_PORT"])
        self.sh("git", "init", "-q", "-b", "main")
        self.sh("git", "config", "user.name", "tests")
        self.sh("git", "config", "user.email", "tests@localhost")
        self.commit("start")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.sh("git", "add", "-A")
        self.sh("git", "commit", "-qm", message)

    def sh(self, *command: str, code: int = 0) -> str:
        """Output of a command in the project."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=self.environment)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def arc(self, *arguments: str, code: int = 0) -> str:
        """Output of an `arc` command."""
        return self.sh(sys.executable, "-m", "flows.arc", *arguments, code=code)

    def queue(self, overrides: dict[str, Any], *arguments: str, name: str = NAME) -> list[str]:
        """Queue and return the ids."""
        chosen = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
        lines = self.arc("queue", name, *chosen, *arguments).splitlines()
        starts = [line.split()[1] for line in lines if line.startswith("queued")]
        ids = [row["id"] for row in self.runs()]
        return [next(i for i in ids if i.startswith(start)) for start in starts]

    def api(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """A call of Prefect's API with the secret."""
        key = base64.b64encode((self.folder / ".prefect" / "secret").read_text().strip().encode()).decode()
        headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
        if method != "GET":
            token = self.api("/csrf-token?client=tests", method="GET")["token"]
            headers |= {"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token}
        return self.ask(path, body, method, headers)

    def ask(self, path: str, body: Any, method: str, headers: dict[str, str]) -> Any:
        """A call of Prefect's API with these headers only."""
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api{path}", data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for attempt in range(10):
            try:
                with opener.open(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == 9:  # SQLite was busy; Prefect's own clients ask again too.
                    raise
                time.sleep(0.5)
        raise AssertionError

    def runs(self) -> list[dict[str, Any]]:
        """Every flow run."""
        return list(self.api("/flow_runs/filter", {"limit": 200, "sort": "START_TIME_ASC"}))

    def state(self, run: str) -> str:
        """Type of a run's state."""
        return str(self.api(f"/flow_runs/{run}", method="GET")["state"]["type"])

    def states(self, run: str) -> list[tuple[str, str]]:
        """Name and message of every state that a run went through."""
        rows = self.api(f"/flow_run_states/?flow_run_id={run}", method="GET")
        return [(row["name"], row["message"] or "") for row in sorted(rows, key=lambda row: row["timestamp"])]

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Every task run of a run."""
        return list(self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}}))

    def log(self, run: str) -> list[str]:
        """A run's log."""
        return [text for _, text in self.timed_log(run)]

    def timed_log(self, run: str) -> list[tuple[float, str]]:
        """A run's log; times in seconds since 1970."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        lines: list[tuple[float, str]] = []
        while page := self.api("/logs/filter", {**wanted, "offset": len(lines)}):
            lines += [(datetime.fromisoformat(row["timestamp"]).timestamp(), row["message"]) for row in page]
        return lines

    def record(self, run: str, name: str) -> Any:
        """What the run left on the disk."""
        path = self.folder / ".scratch" / "runs" / run / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def step(self, run: str) -> int:
        """Last update of the training that is known."""
        return int((self.record(run, "progress") or {"step": 0})["step"])

    def start_worker(self) -> psutil.Process:
        """`arc worker` in a session of its own."""
        log = self.folder / "worker.log"
        before = log.read_text().count("working") if log.exists() else 0
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.arc", "worker"],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.worker = psutil.Process(process.pid)
        until(lambda: process.poll() is not None or log.read_text().count("working") > before, 120)
        assert process.poll() is None, log.read_text()
        return self.worker

    def processes(self, run: str | None = None) -> list[psutil.Process]:
        """Living processes of a run, by its variable in their environment, or of the whole project."""
        found = []
        for process in psutil.process_iter():
            try:
                variables = process.environ()
                if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                    continue
                ours = variables.get("PREFECT_SERVER_API_PORT") == str(self.port)
                if ours and (run is None or variables.get("ARC_RUN") == run):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def process(self, run: str | None, *words: str) -> psutil.Process:
        """The youngest process with these words in its command."""
        found = [p for p in self.processes(run) if all(word in _command(p) for word in words)]
        return max(found, key=lambda p: p.create_time())

    @staticmethod
    def alive(process: psutil.Process) -> bool:
        """Whether it lives; one that nobody has waited for does not."""
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def mlflow(self) -> list[tuple[str, str]]:
        """Name and status of every run in MLflow's database but trainings while they run, and single evaluations."""
        if not (self.folder / "mlflow.db").exists():
            return []
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            other = "select run_uuid from tags where key = 'arc.run' and value in ('live', 'evaluation')"
            query = f"select name, status from runs where run_uuid not in ({other}) order by start_time"
            return list(connection.execute(query))

    def only(self, last: str) -> None:
        """Leave the stages up to `last`, for tests of the queue itself."""
        path = self.folder / "dvc.yaml"
        project = yaml.safe_load(path.read_text())
        names = list(project["stages"])
        project["stages"] = {name: project["stages"][name] for name in names[: names.index(last) + 1]}
        path.write_text(yaml.safe_dump(project, sort_keys=False))
        self.commit(f"stages up to {last}")

    def training(self, run: str) -> list[psutil.Process]:
        """Its processes that train."""
        return [p for p in self.processes(run) if "tasks.train" in _command(p)]

    def saved(self) -> int:
        """Update of the resume state on the disk; 0 where there is none."""
        states = self.folder.glob(".scratch/train/*/state-*.safetensors")
        return max((int(path.name.split("-")[1]) for path in states), default=0)

    def resumed_from(self, run: str) -> int:
        """Update after which the run went on; 0 as long as it did not."""
        lines = [line for line in self.log(run) if "going on after update" in line]
        return int(lines[-1].split()[4]) if lines else 0

    def finish(self, *runs: str, silence: float = 60) -> None:
        """Wait until the runs have ended, however long it takes: at most `silence` s without a new state or output."""
        place: Any = None
        while place is None or {kind for kind, *_ in place} - set(ENDED):
            before = place
            place = until(lambda before=before: (new := [self._place(run) for run in runs]) != before and new, silence)

    def _place(self, run: str) -> tuple[str, Any, Any]:
        return self.state(run), self.record(run, "stages"), self.record(run, "progress")

    def stop(self) -> None:
        """End everything that was started."""
        while left := self.processes():
            for process in left:
                try:
                    process.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.1)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A project that is ended after the test."""
    made = Lab(tmp_path)
    yield made
    made.stop()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


PATIENCE = 3.0
"""Times are what an idle machine needs at most; a loaded one gets this many times as much."""


def until(what: Callable[[], Any], seconds: float, every: float = 0.2) -> Any:
    """Wait until `what()` is true; returns that."""
    deadline = time.monotonic() + PATIENCE * seconds
    while time.monotonic() < deadline:
        try:
            if value := what():
                return value
        except OSError:
            pass  # The server is away.
        time.sleep(every)
    raise AssertionError(f"not within {PATIENCE * seconds} s")
