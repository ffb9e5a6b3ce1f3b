"""Runs the stage publish as a process, and reads its result back from MLflow."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks.common import paths
from tasks.tracking.addresses import sqlite_address
from tests.conftest import ROOT, experiment

PAIRS = ("best-attempts", "best-votes", "final-attempts", "final-votes")
NAME = f"{experiment().title} seed 0"
PAGE = "<html><body>scores × grids</body></html>"


def client(uri: str = "") -> Any:
    import mlflow

    return mlflow.MlflowClient(uri or sqlite_address(Path("mlflow.db")))


def runs(where: Any, wanted: str = "") -> list[Any]:
    found = where.search_runs([e.experiment_id for e in where.search_experiments()], wanted)
    assert found.token is None
    return list(found)


def models(where: Any) -> list[Any]:
    return list(where.search_logged_models([e.experiment_id for e in where.search_experiments()]))


def assert_whole(where: Any) -> None:
    """One complete result and no trace of another in what is shown."""
    found = runs(where)
    names = Counter(run.info.run_name for run in found)
    assert names == Counter([NAME, *(f"{NAME} {pair}" for pair in PAIRS)])
    assert {run.info.status for run in found} == {"FINISHED"}
    parent = next(run for run in found if run.info.run_name == NAME)
    children = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(m.tags["arc.checkpoint"] for m in models(where)) == ["best", "final", "halfway"]
    assert {m.source_run_id for m in models(where)} == {parent.info.run_id}
    history = json.loads(paths.HISTORY.read_text())
    assert len(where.get_metric_history(parent.info.run_id, "train/loss")) == len(history)
    assert all("pass_at_2" in run.data.metrics for run in children)
    assert "submission.json" in [a.path for a in where.list_artifacts(children[0].info.run_id)]


def run_publish(*arguments: str, before: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    """`python -m tasks.publish` as a process of its own, after the statements `before`."""
    program = f"import runpy, sys\n{before}\nrunpy.run_module('tasks.publish', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def signalled_at(call: int, number: str) -> str:
    """Statements that send the process a signal at its n-th call of a method that writes."""
    return f"""
import os, signal
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow
calls = 0
def wrap(name):
    wrapped = getattr(mlflow.MlflowClient, name)
    def method(*args, **kwargs):
        global calls
        calls += 1
        result = wrapped(*args, **kwargs)
        if calls == {call}:
            os.kill(os.getpid(), signal.{number})
        return result
    setattr(mlflow.MlflowClient, name, method)
for name in "create_run log_batch log_inputs log_text log_outputs set_terminated finalize_logged_model".split():
    wrap(name)
"""


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value


def sha(*files: Path) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()


def row_counts(root: Path) -> dict[str, int]:
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        tables = ("runs", "metrics", "params", "tags", "logged_models", "logged_model_metrics", "inputs", "datasets")
        return {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
