"""Checkpoints as MLflow models: loaded by alias in a fresh process, served, moved; and when the alias moves."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import publish
from tasks.commands import solve
from tasks.common import paths
from tasks.tracking import mlflow_runs, models, promotion, store
from tasks.tracking.addresses import sqlite_address
from tests.conftest import puzzles
from tests.support.published_experiment import client

NAME = "arc-diffusion-aa1-6x6"
LOAD = """
import json, sys, mlflow
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}@best")
print(model.predict({"tasks": json.load(open(sys.argv[2]))}).to_json(orient="records"))
"""
CHALLENGES = "arc-agi_evaluation_challenges.json"


def fresh(folder: Path, elsewhere: Path, file: Path) -> list[dict[str, Any]]:
    """Answers of the model with the alias in a process that has neither our folder nor our code."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    environment |= {"MLFLOW_TRACKING_URI": sqlite_address(folder / "mlflow.db"), **store.SETTINGS}
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD, NAME, str(file)],
        env=environment,
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_fresh_process_answers_as_arc_solve_even_after_the_next_run_and_a_move(repository, tmp_path, monkeypatch):
    publish.main()
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(puzzles()[CHALLENGES]))
    out = tmp_path / "solved.json"
    solve.main(file=file, checkpoint=paths.CHECKPOINTS / "best", evaluation="votes", output=out, draw=False)
    expected = json.loads(out.read_text())
    # The next run overwrites every checkpoint; then the checkout is moved.
    for weights in paths.CHECKPOINTS.glob("*.safetensors"):
        weights.write_bytes(b"of the next run")
    os.chdir(tmp_path)
    shutil.move(repository, tmp_path / "moved")
    os.chdir(tmp_path / "moved")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow set it.
    mlflow_runs.connect(store.configured_store())
    (tmp_path / "elsewhere").mkdir()
    rows = fresh(tmp_path / "moved", tmp_path / "elsewhere", file)
    got = {}
    for row in rows:
        got.setdefault(row["task"], []).append({key: row[key] for key in ("attempt_1", "attempt_2")})
        for number in (1, 2):
            grid = row[f"attempt_{number}"]
            assert row[f"size_{number}"] == [len(grid), len(grid[0])]
            assert 0 < row[f"votes_{number}"] <= row["proposals"]
    assert got == expected
    assert not list((tmp_path / "moved" / "mlartifacts").rglob("*.pkl"))


BAD = {
    "not JSON": (b"{", "JSON"),
    "ragged": (
        {"a": {"train": [{"input": [[1, 2], [1]], "output": [[1]]}], "test": [{"input": [[1]]}]}},
        "row 1 has",
    ),
    "colour 12": ({"a": {"train": [{"input": [[12]], "output": [[1]]}], "test": [{"input": [[1]]}]}}, "is 12"),
    "no test input": ({"a": {"train": [{"input": [[1]], "output": [[1]]}], "test": []}}, "no test pair"),
    "unknown task": ({"a": {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}}, "a (not in"),
    "no object": (3, "must be an object"),
    "10 MB": ({"a": [[1] * 1000] * 5000}, "at most 2000000"),
}


def post(port: int, body: bytes) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def served(repository: Path) -> Iterator[int]:
    """The port of `mlflow models serve`."""
    publish.main()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **store.SETTINGS, "MLFLOW_TRACKING_URI": sqlite_address(repository / "mlflow.db")}
    command = ["models", "serve", "-m", f"models:/{NAME}@best", "--env-manager", "local", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1"], env=environment)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_the_server_answers_and_says_what_is_wrong_with_a_request(served):
    good = json.dumps({"inputs": {"tasks": puzzles()[CHALLENGES]}}).encode()
    status, text = post(served, good)
    assert status == 200, text
    assert {"attempt_1", "size_2", "votes_2", "proposals"} < set(json.loads(text)["predictions"][0])
    for what, (tasks, reason) in BAD.items():
        body = tasks if isinstance(tasks, bytes) else json.dumps({"inputs": {"tasks": tasks}}).encode()
        status, text = post(served, body)
        assert 400 <= status < 500, (what, status, text[:300])
        assert reason in text, (what, text[:300])
        assert len(text) < 5000, what
    assert post(served, good)[0] == 200


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store with nothing in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = store.configured_store()
    store.create(place)
    return mlflow_runs.connect(place)


def version(where: Any, key: str, solved: list[bool], evaluation: str = "votes", prefix: str = "t") -> str:
    """A version whose score solves these tasks."""
    tags = {mlflow_runs.KEY: key, "arc.checkpoint": "best", promotion.SERVED: evaluation}
    run = where.create_run("0", tags={**tags, "arc.run": "evaluation"}).info.run_id
    tasks = {f"{prefix}{i}": [{"solved": by}] for i, by in enumerate(solved)}
    where.log_text(run, json.dumps({"tasks": tasks}), "score.json")
    made = where.create_model_version("m", f"runs:/{run}/x", run, tags=tags)
    return str(made.version)


@pytest.mark.slow
def test_the_alias_moves_only_where_the_paired_comparison_shows_a_higher_score(registry):
    registry.create_registered_model("m")

    def consider(key: str) -> str:
        return promotion.consider(registry, "m", key, mlflow_runs.KEY)

    version(registry, "a", [i < 10 for i in range(60)])
    assert "the first" in consider("a")
    version(registry, "b", [i < 11 for i in range(60)])
    assert "not shown to be better" in consider("b")
    version(registry, "c", [i < 5 for i in range(60)])
    assert "not shown to be better" in consider("c")
    version(registry, "d", [True] * 60, evaluation="attempts")
    assert "another evaluation" in consider("d")
    version(registry, "e", [True] * 60, prefix="u")
    assert "the same tasks" in consider("e")
    assert promotion.current_version(registry, "m").version == 1
    better = version(registry, "f", [i < 40 for i in range(60)])
    assert "moves from version 1" in consider("f")
    assert promotion.current_version(registry, "m").version == int(better)
    # What the user says stays.
    registry.set_registered_model_alias("m", promotion.ALIAS, "3")
    version(registry, "g", [i < 6 for i in range(60)])
    consider("g")
    assert promotion.current_version(registry, "m").version == 3


@pytest.mark.slow
def test_a_killed_publication_leaves_no_version(repository, monkeypatch):
    monkeypatch.setattr(models, "register", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(SystemExit, match="no space"):
        publish.main()
    monkeypatch.undo()
    os.chdir(repository)
    publish.main()
    assert len(client().search_model_versions(f"name = '{NAME}'")) == 3
