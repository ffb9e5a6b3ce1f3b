"""A study by stages that are a few lines each: their order, what is kept, done once, stopped, and told of failures."""

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks.commands import our_scores, table
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files import cost, predictions
from tasks.machine import gpu_lock
from tasks.reporting import score_table
from tasks.studies import predict_all, run_stages
from tests.conftest import experiment
from tests.support.made_up_study import STAGE, run, told


def test_the_stages_run_once_in_order_on_the_gpu_that_was_named(study: Path, monkeypatch: Any) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(predictions, "keep", lambda file, to, whole: kept.append((file.name, to, whole)))
    run("v3/tiny/aa1", gpus="5", commit="abc")
    names = ["params", "fetch", "prepare", "augment", "train", "select", "predict_all"]
    rows = told(study)
    assert [row[0] for row in rows] == names
    assert [row[1] for row in rows] == [["--write"], [], [], [], [], [], ["attempts"]]
    assert [row[2] for row in rows] == [None] * 4 + ["5"] * 3
    assert [row[4] for row in rows] == [None] * 4 + ["1"] * 3
    assert {row[3] for row in rows} == {".scratch"}
    (place,) = study.glob(".scratch/run_stages/*")
    assert (place / paths.OWN / "mine.txt").exists()
    assert (place / "train.log").read_text() == "train ran\n"
    where = study / "kept" / "v3-tiny-aa1"
    assert yaml.safe_load((where / "params.yaml").read_text())["train"]["optimizer_steps"] == 12
    written = json.loads((where / "cost.json").read_text())
    assert (written["commit"], written["seconds"]) == ("abc", 9.0)
    assert set(written["stages"]) == {*names[:-1], "studies.predict_all"}
    assert all(0 <= seconds < 60 for seconds in written["stages"].values())
    assert len(written["started"]) == len("2026-01-01T00:00:00+00:00")
    (place / paths.PREDICTIONS).mkdir(parents=True)
    for name in ("final-attempts", "final-votes", "best-votes"):
        (place / paths.PREDICTIONS / f"{name}.parquet").touch()
    run("v3/tiny/aa1", gpus="5")
    assert len(told(study)) == 7, "nothing is done twice"
    whole = {name: keep for name, _, keep in kept[:3]}
    assert whole == {"final-attempts.parquet": False, "final-votes.parquet": True, "best-votes.parquet": False}
    assert {to.parent for _, to, _ in kept} == {where}
    assert json.loads((where / "cost.json").read_text()).get("commit") is None


def test_a_failure_is_named_with_its_last_line_and_the_others_run(study: Path, monkeypatch: Any) -> None:
    done: list[str] = []
    monkeypatch.setattr(run_stages.Runner, "prepare", lambda self, member: Path(member.label))

    def one(self: Any, member: Any, place: Path, gpu: str) -> Path:
        done.append(f"{place} on {gpu}")
        if "v3" in member.label:
            raise StageError("stage select ended")
        return place

    for method in ("train", "answer"):
        done.clear()
        monkeypatch.setattr(run_stages.Runner, "train", lambda *_: None)
        monkeypatch.setattr(run_stages.Runner, "answer", lambda *_: Path("kept"))
        monkeypatch.setattr(run_stages.Runner, method, one)
        with pytest.raises(SystemExit, match="v3-tiny-aa1: stage select ended"):
            run(gpus="0", beside=True)
        assert done == ["v3-tiny-aa1 on 0", "v6-tiny-aa1 on 0"]


def test_an_experiment_is_answered_while_the_next_one_trains(study: Path) -> None:
    """With locks of its own, and its cost says that the GPU was shared; otherwise the next one waits for it."""
    wait = """
import pathlib, sys, time
ends = time.time() + 20
while len(list(pathlib.Path("..").glob("*/.scratch/cost/k.json"))) < 2:
    time.sleep(0.01)
    if time.time() > ends: sys.exit("the other one did not train")
"""
    (study / "code" / "tasks" / "select.py").write_text(wait + STAGE)
    run(gpus="5", beside=True)
    rows = told(study)
    assert sorted(row[0] for row in rows if row[2] == "5") == ["predict_all"] * 2 + ["select"] * 2 + ["train"] * 2
    locks = {row[0]: row[5] for row in rows}
    assert locks["select"] == locks["predict_all"] == f"{gpu_lock.FOLDER}-answers"
    assert locks["train"] is None
    for label in ("v3-tiny-aa1", "v6-tiny-aa1"):
        assert json.loads((study / "kept" / label / "cost.json").read_text())["gpu_shared"] is True


def test_without_it_the_next_one_waits_for_the_answers(study: Path) -> None:
    (study / "code" / "tasks" / "select.py").write_text(
        "import pathlib\nassert len(list(pathlib.Path('..').glob('*/train.log'))) == 1" + STAGE
    )
    with pytest.raises(SystemExit, match="v6-tiny-aa1: stage select") as error:
        run(gpus="5")
    assert "v3-tiny-aa1" not in str(error.value)
    assert "gpu_shared" not in json.loads((study / "kept" / "v3-tiny-aa1" / "cost.json").read_text())


def test_a_stage_that_ends_with_an_error_is_told_with_the_end_of_its_log(study: Path) -> None:
    runner = run_stages.Runner(study / ".scratch" / "run_stages", study / "kept", "")
    place = study / ".scratch" / "run_stages" / "one"
    place.mkdir(parents=True)
    (study / ".scratch" / "fails").write_text("select")
    with pytest.raises(StageError, match=r"stage select in .*one ended with code 1: no luck"):
        runner._stages(place, [("select",), ("train",)], "")
    assert not (place / ".done").exists()
    (study / "code" / "tasks" / "select.py").write_text("raise SystemExit(3)")
    (place / "select.log").unlink()
    with pytest.raises(StageError, match="code 3: no output"):
        runner._stages(place, [("select",)], "")


def test_stopping_ends_the_stages_and_starts_no_others(study: Path, capsys: Any) -> None:
    runner = run_stages.Runner(study, study / "kept", "")
    (study / "code" / "tasks" / "train.py").write_text("import time; print('began', flush=True); time.sleep(60)")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            runner._stage(study, "", "train")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not (study / "train.log").exists() or "began" not in (study / "train.log").read_text():
        assert thread.is_alive()
        thread.join(0.01)
    runner.stop()
    thread.join(20)
    assert [type(error) for error in errors] == [run_stages.Interrupted]
    assert not runner.children
    (study / "train.log").unlink()
    with pytest.raises(run_stages.Interrupted):
        runner._stage(study, "", "train")
    assert not (study / "train.log").exists()


def test_a_stopped_study_says_so_with_its_code(study: Path, monkeypatch: Any, capsys: Any) -> None:
    def prepare(self: Any, member: Any) -> Path:
        self.stop()
        raise run_stages.Interrupted

    monkeypatch.setattr(run_stages.Runner, "prepare", prepare)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143
    assert "start the same command again" in capsys.readouterr().out


def test_all_predictions_are_made_once_and_those_of_equal_checkpoints_are_copied(workspace: Path, monkeypatch: Any):
    config = experiment(predict={"checkpoints": ["best", "final"], "evaluations": ["attempts", "votes"]})
    monkeypatch.setattr(predict_all, "resolved", lambda: config)
    assert list(predict_all.pairs(config)) == [(c, e) for c in ("final", "best") for e in ("attempts", "votes")]
    fewer = list(predict_all.pairs(config, ["attempts"]))
    assert fewer == [("final", "attempts"), ("final", "votes"), ("best", "votes")]
    paths.CHECKPOINTS.mkdir(parents=True)
    paths.PREDICTIONS.mkdir(parents=True)
    for name, content in (("best", "same"), ("final", "same")):
        for suffix in (".safetensors", ".json"):
            (paths.CHECKPOINTS / f"{name}{suffix}").write_text(content)
    asked: list[Any] = []

    def predict(checkpoint: str, evaluation: str) -> None:
        asked.append((checkpoint, evaluation))
        paths.predictions(checkpoint, evaluation).write_text(f"{checkpoint} {evaluation}")

    monkeypatch.setattr("tasks.studies.predict_all.predict.predict", predict)
    predict_all.main([])
    assert asked == [("final", "attempts"), ("final", "votes")]
    assert paths.predictions("best", "votes").read_text() == "final votes"
    paths.predictions("best", "votes").unlink()
    (paths.CHECKPOINTS / "best.json").write_text("other")
    predict_all.main([])
    assert asked[2:] == [("best", "votes")]


def test_the_table_says_commit_and_cost(workspace: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(score_table, "main", lambda long: print("the table"))
    monkeypatch.setattr(table, "resolved", lambda: None)
    commit = {"mlflow.source.git.commit": "0123456789abc", "mlflow.source.git.dirty": "true"}
    for code, spent, says in (
        (commit, {"seconds": 90.0, "device": "H100"}, "commit 012345678+, trained for 1.5 min on H100"),
        (commit | {"mlflow.source.git.dirty": "false"}, None, "commit 012345678"),
        ({}, None, ""),
    ):
        monkeypatch.setattr(table, "code", lambda code=code: code)
        monkeypatch.setattr(cost, "read", lambda _, spent=spent: spent)
        table.main()
        assert capsys.readouterr().out == f"the table\n{says}\n"


def test_our_scores_are_those_of_the_store_and_the_kept_ones_that_it_lacks(workspace: Path, monkeypatch: Any) -> None:
    def stored(name: str, kept: str = "", **metrics: float) -> Any:
        tags = {"arc.experiment": name, "arc.seed": "1", "arc.kept_in": kept}
        return SimpleNamespace(data=SimpleNamespace(tags=tags, metrics=metrics))

    def values(pair: str, score: float) -> dict[str, float]:
        return {f"pass_at_2/{pair}": score, f"pass_at_2_low/{pair}": score - 0.1, f"pass_at_2_high/{pair}": score + 0.1}

    found = [
        stored("v3/a/b", "docs/kept/one", **values("final-votes", 0.5), **values("best-votes", 0.25)),
        stored("v6/a/b", **values("final-attempts", 0.75)),
        stored("v7/a/b"),
    ]
    place = SimpleNamespace(empty=True, uri="sqlite:///x")
    monkeypatch.setattr("tasks.commands.our_scores.store.configured_store", lambda: place)
    monkeypatch.setattr(our_scores, "_folders", lambda: [Path("docs/kept/one"), Path("docs/kept/two")])
    kept = {"one": 0.25, "two": 0.6}
    made = lambda path: our_scores.Ours("e", path.name, "0", "best-votes", kept[path.name], (0, 1))  # noqa: E731
    monkeypatch.setattr(our_scores, "_kept", made)
    assert [ours.title for ours in our_scores.find()] == ["two", "one"]
    assert list(our_scores.kept()) == ["two", "one"]
    place.empty = False
    client = SimpleNamespace(set_tracking_uri=lambda _: None, MlflowClient=lambda: None)
    exceptions = SimpleNamespace(MlflowException=KeyError)
    monkeypatch.setitem(sys.modules, "mlflow", client)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", exceptions)
    monkeypatch.setattr("tasks.commands.our_scores.results.finished_runs", lambda *_: iter(found))
    first, second, third = our_scores.find()
    assert first.text == "v6/a/b seed 1: final-attempts 75.0 [65.0–85.0]"
    assert (second.title, third.text) == ("two", "v3/a/b seed 1: best-votes 25.0 [15.0–35.0]")
