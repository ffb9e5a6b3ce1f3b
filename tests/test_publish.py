"""publish against a real MLflow store, read back with its own client: whole, once, and honest about what was killed."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import augment, paths, predict, prepare, publish, score, select, store, train, ui
from tests.conftest import ROOT, experiment, puzzles

PAIRS = ("best-attempts", "best-votes", "final-attempts", "final-votes")
NAME = "v3/tiny/aa1-6x6 seed 0"
PAGE = "<html><body>scores × grids</body></html>"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the result of a real experiment on three tasks."""
    folder = tmp_path_factory.mktemp("result")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = experiment(predict={"checkpoints": ["best", "final"]})
        paths.RAW.mkdir(parents=True)
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        for name, contents in puzzles().items():
            (paths.RAW / name).write_text(json.dumps(contents))
        for stage in (prepare, augment, train, select):
            stage.main()
        for pair in PAIRS:
            predict.main(*pair.split("-"))
            score.main(*pair.split("-"))
        paths.REPORTS.mkdir()
        paths.PAGE.write_text(PAGE)
        store.create(store.Store("", folder / "mlflow.db", folder / "mlartifacts"))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return folder


@pytest.fixture
def place(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the result as the repository root, with an empty database, which takes a second to make."""
    handler = signal.getsignal(signal.SIGTERM)
    shutil.copytree(result, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path / "root"
    signal.signal(signal.SIGTERM, handler)


def client(uri: str = "") -> Any:
    import mlflow

    return mlflow.MlflowClient(uri or f"sqlite:///{Path('mlflow.db').resolve()}")


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


def test_the_run_of_the_training_holds_parameters_curves_models_and_files(place):
    publish.main()
    where = client()
    (parent,) = runs(where, "tags.`arc.run` = 'experiment'")
    run = parent.info.run_id
    assert (parent.info.run_name, parent.info.status) == (NAME, "FINISHED")

    given = dict(leaves(yaml.safe_load(paths.EXPERIMENT.read_text())))
    assert set(parent.data.params) == set(given)
    assert all(yaml.safe_load(parent.data.params[k]) == v for k, v in given.items() if not isinstance(v, str | float))
    assert parent.data.params["train.network.width"] == "32"
    assert float(parent.data.params["train.learning_rate"]) == 2e-3

    for prefix, rows in (
        ("train", json.loads(paths.HISTORY.read_text())),
        ("validation", json.loads(paths.SELECTION.read_text())["candidates"]),
    ):
        curves = [k for k, v in rows[0].items() if isinstance(v, float) and k != "step"]
        assert len(rows) > 1
        assert len(curves) > 5
        for name in curves:
            points = where.get_metric_history(run, f"{prefix}/{name}")
            assert sorted((p.step, p.value) for p in points) == sorted((int(r["step"]), r[name]) for r in rows)

    steps = {name: json.loads((paths.CHECKPOINTS / f"{name}.json").read_text())["step"] for name in publish.CHECKPOINTS}
    by_name = {model.tags["arc.checkpoint"]: model for model in models(where)}
    assert set(by_name) == set(steps)
    for name, model in by_name.items():
        stem = paths.CHECKPOINTS / name
        assert model.tags["arc.digest"] == sha(stem.with_suffix(".safetensors"), stem.with_suffix(".json"))
        assert model.tags["mlflow.model.isExternal"] == "true"
        assert (model.status.name, model.source_run_id, model.params["step"]) == ("READY", run, str(steps[name]))
    outputs = where.get_run(run).outputs.model_outputs
    assert {(o.model_id, o.step) for o in outputs} == {(by_name[n].model_id, s) for n, s in steps.items()}

    files = (paths.PAGE, paths.EXPERIMENT, paths.HISTORY, paths.SELECTION, paths.LEAKS)
    assert {a.path for a in where.list_artifacts(run)} == {file.name for file in files}
    for file in files:
        assert Path(where.download_artifacts(run, file.name)).read_bytes() == file.read_bytes()
    (data,) = where.get_run(run).inputs.dataset_inputs
    assert data.dataset.name == "aa1-6x6"
    assert sha(paths.CELLS, paths.PAIRS, paths.TASKS).startswith(data.dataset.digest)
    for pair in PAIRS:
        given = json.loads((paths.SCORES / f"{pair}.json").read_text())
        assert parent.data.metrics[f"pass_at_2/{pair}"] == given["pass_at_2"]
    assert parent.data.metrics["cost/training_seconds"] > 0
    assert parent.data.tags["arc.device"] == "cpu"
    assert parent.data.tags["arc.leaks"] == "0"
    assert parent.data.tags["arc.selected_on_the_reported_set"] == "false"
    assert "best-votes" in parent.data.tags["mlflow.note.content"]


def test_every_evaluation_is_a_run_linked_to_its_model(place):
    publish.main()
    where = client()
    by_name = {model.tags["arc.checkpoint"]: model.model_id for model in models(where)}
    for pair in PAIRS:
        checkpoint, name = pair.split("-")
        (run,) = runs(where, f"tags.`arc.checkpoint` = '{checkpoint}' and tags.`arc.evaluation` = '{name}'")
        given = json.loads((paths.SCORES / f"{pair}.json").read_text())
        same = {k: v for k, v in given.items() if type(v) in (int, float)}
        assert {"pass_at_1", "pass_at_2", "strict", "oracle", "sizes_correct", "grids_solved", "n_tasks"} <= set(same)
        assert {k: run.data.metrics[k] for k in same} == same
        assert [run.data.metrics["ci95_low"], run.data.metrics["ci95_high"]] == given["ci95"]
        assert run.data.metrics["missing"] == 0
        assert run.data.params["evaluation.steps"] == str(given["source"]["evaluation"]["steps"])
        (used,) = where.get_run(run.info.run_id).inputs.model_inputs
        assert used.model_id == by_name[checkpoint]
        measured = where.get_logged_model(by_name[checkpoint]).metrics
        values = [m.value for m in measured if m.run_id == run.info.run_id and m.key == "pass_at_2"]
        assert values == [given["pass_at_2"]]
        for file, source in (("score.json", paths.score), ("submission.json", paths.submission)):
            got = Path(where.download_artifacts(run.info.run_id, file)).read_bytes()
            assert got == source(checkpoint, name).read_bytes()


def test_publishing_again_adds_nothing_and_writes_the_same_file(place):
    publish.main()
    first = paths.PUBLISHED.read_bytes()
    counts = _counts(place)
    publish.main()
    paths.PAGE.write_text("another layout of the same result")
    publish.main()
    assert _counts(place) == counts
    assert paths.PUBLISHED.read_bytes() == first
    assert set(json.loads(first)) == {"key", "experiment", "runs"}
    assert_whole(client())


def test_another_result_is_another_run(place):
    publish.main()
    history = json.loads(paths.HISTORY.read_text())
    paths.HISTORY.write_text(json.dumps(history[:-1]))
    publish.main()
    parents = runs(client(), "tags.`arc.run` = 'experiment'")
    assert len({run.data.tags["arc.key"] for run in parents}) == len(parents) == 2
    lengths = [len(client().get_metric_history(run.info.run_id, "train/loss")) for run in parents]
    assert sorted(lengths) == [len(history) - 1, len(history)]


def test_the_store_and_its_artifacts_are_where_the_variable_says(place, tmp_path, monkeypatch):
    (tmp_path / "else where").mkdir()
    uri = f"sqlite:///{tmp_path / 'else where' / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    publish.main()
    assert_whole(client(uri))
    assert not runs(client())
    stored = [Path(run.info.artifact_uri) for run in runs(client(uri))]
    assert all(path.is_relative_to(tmp_path / "else where" / "mlartifacts") for path in stored)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    publish.main()
    assert_whole(client())


def test_a_store_that_holds_the_result_is_asked_without_mlflow_and_a_fresh_one_is_given_it(place):
    publish.main()
    paths.PUBLISHED.unlink()
    quick = run_publish("--if-missing", before="import atexit; atexit.register(lambda: print(*sys.modules))")
    assert quick.returncode == 0, quick.stderr
    assert not {"mlflow", "torch", "pandas"} & set(quick.stdout.split())
    for file in place.glob("mlflow.db*"):
        file.unlink()
    assert run_publish("--if-missing").returncode == 0
    assert_whole(client())
    assert not paths.PUBLISHED.exists()


def test_an_error_leaves_a_failed_run_and_the_next_attempt_a_whole_one(place, monkeypatch):
    import mlflow

    def full(*_: Any) -> None:
        raise mlflow.MlflowException("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_outputs", full)
        with pytest.raises(SystemExit, match=r"publish: MLflow at sqlite:.*no space left on device"):
            publish.main()
    assert [run.info.status for run in runs(client())] == ["FAILED"]
    assert not paths.PUBLISHED.exists()
    publish.main()
    assert_whole(client())


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 14])
def test_sigterm_leaves_killed_runs_and_the_next_attempt_a_whole_result(place, call):
    stopped = run_publish(before=signalled_at(call, "SIGTERM"))
    assert stopped.returncode == 1
    assert "stopped" in stopped.stderr
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    assert parent.info.status == "KILLED"
    assert not runs(client(), "attributes.status = 'RUNNING'")
    publish.main()
    assert_whole(client())


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 5, 12, 17, 30])
def test_sigkill_at_any_moment_leaves_no_half_result_behind_the_next_attempt(place, call):
    killed = run_publish(before=signalled_at(call, "SIGKILL"))
    assert killed.returncode == -signal.SIGKILL
    left = runs(client(), "tags.`arc.run` = 'experiment'")
    assert [run.info.status for run in left] == ["RUNNING"], "the kill came too early or too late to show anything"
    # Another result published meanwhile says what became of the killed one, and keeps its own.
    text = paths.EXPERIMENT.read_text()
    paths.EXPERIMENT.write_text(text.replace("tasks_drawn: 6", "tasks_drawn: 5"))
    publish.main()
    assert client().get_run(left[0].info.run_id).info.status == "KILLED"
    paths.EXPERIMENT.write_text(text)
    publish.main()
    found = runs(client(), "tags.`arc.run` = 'experiment'")
    assert [run.info.status for run in found] == ["FINISHED"] * 2
    assert len(runs(client())) == 2 * (1 + len(PAIRS))
    assert len(models(client())) == 2 * len(publish.CHECKPOINTS)


@pytest.mark.slow
@pytest.mark.parametrize("tables", [1, 40])
def test_a_kill_while_the_database_is_made_leaves_one_that_can_be_made(place, tables):
    kill = f"""
import os, signal, sqlalchemy
made = 0
def count(*args):
    global made
    made += args[2].lstrip().upper().startswith("CREATE TABLE")
    if made == {tables}:
        os.kill(os.getpid(), signal.SIGKILL)
sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", count)
"""
    Path("mlflow.db").unlink()
    assert run_publish(before=kill).returncode == -signal.SIGKILL
    assert not Path("mlflow.db").exists()
    publish.main()
    assert_whole(client())
    assert not list(place.glob("mlflow.db.part*"))


@pytest.mark.slow
def test_two_at_once_publish_once(place):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.publish"]
    Path("mlflow.db").unlink()
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("published to" in text for text in said) == 1
    assert_whole(client())


@pytest.mark.slow
def test_a_tracking_server_gets_the_result_once_and_one_that_is_not_there_is_named(place, monkeypatch):
    page, port = ui.mlflow_page(store.store()), ui.free(50000, set())
    server = ui.start(page, port)
    try:
        ui.wait(page, port, server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        publish.main()
        publish.main()
        assert_whole(client(f"http://127.0.0.1:{port}"))
    finally:
        ui.end([server])
    started = time.monotonic()
    with pytest.raises(SystemExit, match=rf"publish: MLflow at http://127\.0\.0\.1:{port}"):
        publish.main()
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("data/scores/best-votes.json", ("source", "checkpoint"), "0" * 64, "best-votes.json is of another checkpoint"),
        ("data/scores/final-votes.json", ("source", "evaluation", "steps"), 9, "is of another evaluation"),
        ("data/checkpoints/halfway.json", ("seed",), 7, "halfway.json is of another seed than"),
        ("data/checkpoints/final.json", ("train", "batch"), 9, "final.json is of another train than"),
        ("data/prepared/tasks.json", (0, "name"), "dddddddd", "is of another data than"),
    ],
)
def test_parts_of_different_experiments_are_not_published_as_one(place, file, key, value, says):
    contents = json.loads(Path(file).read_text())
    *parents, last = key
    target = contents
    for part in parents:
        target = target[part]
    target[last] = value
    Path(file).write_text(json.dumps(contents))
    with pytest.raises(SystemExit, match=says):
        publish.main()
    assert not runs(client())


def test_a_missing_part_is_named_and_a_score_that_is_not_asked_for_is_left_out(place):
    shutil.copyfile(paths.score("best", "votes"), paths.score("best", "other"))
    publish.main()
    assert_whole(client())
    paths.score("best", "votes").unlink()
    with pytest.raises(SystemExit, match=r"incomplete: no data/scores/best-votes\.json; run"):
        publish.main()


def test_marks_reach_the_runs(place):
    selection = json.loads(paths.SELECTION.read_text())
    paths.SELECTION.write_text(json.dumps(selection | {"on_the_reported_set": True}))
    for pair in PAIRS:
        path = paths.SCORES / f"{pair}.json"
        given = json.loads(path.read_text())
        given["selected_on_the_reported_set"] = pair.startswith("best")
        given["source"]["leaks"] = 3
        path.write_text(json.dumps(given))
    publish.main()
    marked = runs(client(), "tags.`arc.selected_on_the_reported_set` = 'true'")
    assert {run.info.run_name for run in marked} == {NAME, f"{NAME} best-attempts", f"{NAME} best-votes"}
    assert {run.data.tags["arc.leaks"] for run in runs(client())} == {"3"}
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    assert parent.data.tags["mlflow.note.content"].count("selected on the reported set") == 2


def test_a_deleted_experiment_and_a_file_that_is_no_store_are_explained(place):
    publish.main()
    where = client()
    where.delete_experiment(where.get_experiment_by_name("arc-diffusion").experiment_id)
    with pytest.raises(SystemExit, match=r"mlflow experiments restore --experiment-id \d+"):
        publish.main()
    Path("mlflow.db").write_text("no database")
    with pytest.raises(SystemExit, match=r"mlflow\.db is no MLflow store"):
        publish.main()


def test_a_deleted_run_is_published_again_with_its_models_once(place):
    publish.main()
    where = client()
    for run in runs(where):
        where.delete_run(run.info.run_id)
    publish.main()
    assert_whole(where)


def test_the_commit_is_recorded_where_there_is_git(place):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    assert publish.code() == {}
    Path("model").mkdir()
    Path("model/loss.py").write_text("one")
    Path("dvc.lock").write_text("one")
    git("init", "-q")
    git("add", "model", "dvc.lock")
    git("commit", "-qm", "one")
    Path("dvc.lock").write_text("two")
    publish.main()
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    assert parent.data.tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert parent.data.tags["mlflow.source.git.dirty"] == "false"
    Path("model/new.py").write_text("two")
    assert publish.code()["mlflow.source.git.dirty"] == "true"


def _counts(place: Path) -> dict[str, int]:
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        tables = ("runs", "metrics", "params", "tags", "logged_models", "logged_model_metrics", "inputs", "datasets")
        return {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
