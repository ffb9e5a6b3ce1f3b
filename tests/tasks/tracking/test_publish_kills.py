"""Publishing that is killed, doubled, refused or undone, against real stores."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.storage import sealed
from tasks import publish
from tasks.common import paths
from tasks.servers import ui
from tasks.tracking import store
from tests.conftest import ROOT
from tests.support.published_experiment import (
    NAME,
    PAIRS,
    assert_whole,
    client,
    models,
    run_publish,
    runs,
    signalled_at,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("call", [1, 14])
def test_sigterm_leaves_killed_runs_and_the_next_attempt_a_whole_result(repository, call):
    stopped = run_publish(before=signalled_at(call, "SIGTERM"))
    assert stopped.returncode == 1
    assert "stopped" in stopped.stderr
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    assert parent.info.status == "KILLED"
    assert not runs(client(), "attributes.status = 'RUNNING'")
    publish.main()
    assert_whole(client())


@pytest.mark.parametrize("call", [5, 17, *(pytest.param(n, marks=pytest.mark.night) for n in (1, 12, 30))])
def test_sigkill_at_any_moment_leaves_no_half_result_behind_the_next_attempt(repository, call):
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
    assert len(models(client())) == 2 * len(publish.ALWAYS_PUBLISHED)


@pytest.mark.parametrize("tables", [1, 40])
def test_a_kill_while_the_database_is_made_leaves_one_that_can_be_made(repository, tables):
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
    assert not list(repository.glob("mlflow.db.part*"))


def test_two_at_once_publish_once(repository):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tasks.publish"]
    Path("mlflow.db").unlink()
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("published to" in text for text in said) == 1
    assert_whole(client())


def test_a_tracking_server_gets_the_result_once_and_one_that_is_not_there_is_named(repository, monkeypatch):
    page, port = ui.mlflow_page(store.configured_store()), ui.free(50000, set())
    server = ui.start(page, port)
    try:
        ui.wait(page, port, server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(SystemExit, match="401"):
            publish.main()
        user, _, password = ui.secret().partition(":")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
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
def test_parts_of_different_experiments_are_not_published_as_one(repository, file, key, value, says):
    contents = json.loads(Path(file).read_text())
    *parents, last = key
    target = contents
    for part in parents:
        target = target[part]
    target[last] = value
    sealed.write(Path(file), contents) if isinstance(contents, dict) else Path(file).write_text(json.dumps(contents))
    with pytest.raises(SystemExit, match=says):
        publish.main()
    assert not runs(client())


def test_a_missing_part_is_named_and_a_score_that_is_not_asked_for_is_left_out(repository):
    shutil.copyfile(paths.score("best", "votes"), paths.score("best", "other"))
    publish.main()
    assert_whole(client())
    paths.score("best", "votes").unlink()
    with pytest.raises(SystemExit, match=r"incomplete: no data/scores/best-votes\.json; run"):
        publish.main()


def test_marks_reach_the_runs(repository):
    selection = json.loads(paths.SELECTION.read_text())
    paths.SELECTION.write_text(json.dumps(selection | {"on_the_reported_set": True}))
    for pair in PAIRS:
        path = paths.SCORES / f"{pair}.json"
        given = json.loads(path.read_text())
        given["selected_on_the_reported_set"] = pair.startswith("best")
        given["source"]["leaks"] = 3
        sealed.write(path, given)
    publish.main()
    marked = runs(client(), "tags.`arc.selected_on_the_reported_set` = 'true'")
    assert {run.info.run_name for run in marked} == {NAME, f"{NAME} best-attempts", f"{NAME} best-votes"}
    assert {run.data.tags["arc.leaks"] for run in runs(client())} == {"3"}
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    assert parent.data.tags["mlflow.note.content"].count("selected on the reported set") == 2


def test_a_deleted_experiment_and_a_file_that_is_no_store_are_explained(repository):
    publish.main()
    where = client()
    where.delete_experiment(where.get_experiment_by_name("arc-diffusion").experiment_id)
    with pytest.raises(SystemExit, match=r"mlflow experiments restore --experiment-id \d+"):
        publish.main()
    Path("mlflow.db").write_text("no database")
    with pytest.raises(SystemExit, match=r"mlflow\.db is no MLflow store"):
        publish.main()


def test_a_deleted_run_is_published_again_with_its_models_once(repository):
    publish.main()
    where = client()
    for run in runs(where):
        where.delete_run(run.info.run_id)
    publish.main()
    assert_whole(where)


def test_the_commit_is_recorded_where_there_is_git(repository):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    assert publish.code() == {}
    Path("model/training").mkdir(parents=True)
    Path("model/training/objective.py").write_text("one")
    Path("dvc.lock").write_text("schema: '2.0'")
    git("init", "-q")
    git("add", "model", "dvc.lock")
    git("commit", "-qm", "one")
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {}")
    publish.main()
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    assert parent.data.tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert parent.data.tags["mlflow.source.git.dirty"] == "false"
    Path("model/new.py").write_text("two")
    assert publish.code()["mlflow.source.git.dirty"] == "true"
