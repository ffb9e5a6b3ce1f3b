"""What the stage publish reads of a result, what it refuses, and what it writes; the result is a few small files."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from model.storage import sealed
from model.storage.digests import digest
from tasks import publish
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.serving import checkpoint_models
from tasks.tracking import mlflow_runs
from tests.conftest import experiment

PAIRS = [(c, e) for c in ("best", "final") for e in ("attempts", "votes")]
DATA = (paths.CELLS, paths.PAIRS, paths.TASKS)


@pytest.fixture
def result(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The files of a whole result; returns its experiment."""
    config = experiment(predict={"checkpoints": ["best", "final"]})
    values = config.model_dump(mode="json")
    for folder in (paths.PREPARED, paths.CHECKPOINTS, paths.SCORES, paths.REPORTS, paths.START):
        folder.mkdir(parents=True, exist_ok=True)
    paths.EXPERIMENT.write_text(yaml.safe_dump(values))
    for path in (*DATA, paths.PAGE, paths.LEAKS, paths.TRAINING_VIEWS, paths.VALIDATION_SOLUTIONS):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    paths.HISTORY.write_text('[{"step": 4, "loss": 2.0}]')
    paths.SELECTION.write_text('{"candidates": [], "on_the_reported_set": false}')
    paths.PROBES.write_text("{}")
    for number, name in enumerate(publish.ALWAYS_PUBLISHED):
        weights = paths.CHECKPOINTS / f"{name}.safetensors"
        weights.write_text(f"weights {number}")
        description = {key: values[key] for key in ("seed", "train", "prepare", "augment")}
        description |= {"experiment": config.name, "data": digest(*DATA)}
        description |= {"weights_digest": digest(weights), "step": number, "tasks": ["a", "b"], "leaks": 0}
        description |= {"optimizer_steps": 12, "stopped_early": False, "weights": "ema"}
        sealed.write(paths.CHECKPOINTS / f"{name}.json", description)
    for checkpoint, name in PAIRS:
        stem = paths.CHECKPOINTS / checkpoint
        source = {
            "checkpoint": digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")),
            "evaluation": values["evaluations"][name],
            "leaks": 0,
            "experiment": config.name,
            "seed": 0,
            "step": 3,
            "weights": "ema",
        }
        measured = {"pass_at_2": 0.5, "ci95": [0.25, 0.75], "grids_solved": 1, "n_grids": 2, "n_tasks": 2}
        measured["selected_on_the_reported_set"] = False
        sealed.write(paths.score(checkpoint, name), measured | {"source": source})
        paths.submission(checkpoint, name).parent.mkdir(parents=True, exist_ok=True)
        paths.submission(checkpoint, name).write_text("{}")
    grid = np.array([[1, 2]], dtype=np.uint8)
    pairs = {"train": {("a", 0): (grid, grid.T), ("a", 1): (grid, None)}}
    pairs["evaluation"] = {("z", 0): (grid, None), ("b", 0): (grid, None), ("b", 1): (grid.T, None)}
    monkeypatch.setattr(publish, "read_pairs", lambda split: pairs[split])
    monkeypatch.setattr(publish, "read_demonstrations", lambda: {"b": [(grid, grid.T)], "z": []})
    monkeypatch.setattr(publish, "code", lambda: {"mlflow.source.git.commit": "0123456789abcdef"})
    return config


def test_a_whole_result_is_read_with_all_that_its_models_need(result: Any) -> None:
    read = publish.read(result)
    assert read.experiment == "arc-diffusion"
    assert [(checkpoint, record.tags["arc.evaluation"]) for checkpoint, record in read.evaluations] == PAIRS
    assert set(read.training.artifacts) == {path.name for path in publish.FILES}
    assert read.evaluations[1][1].artifacts == {
        "score.json": paths.score("best", "votes"),
        "submission.json": paths.submission("best", "votes"),
    }
    assert read.training.times is None, "nobody knows when it ran"
    assert "git switch --detach 0123456789ab && dvc checkout" in read.training.tags["mlflow.note.content"]
    assert (read.data.name, json.loads(read.data.profile)["tasks"]) == ("aa1-6x6", 2)
    assert read.data.digest == digest(*DATA)[:12]
    models = read.models
    assert [models[name].step for name in publish.ALWAYS_PUBLISHED] == [0, 1, 2]
    best = models["best"]
    assert not set(best.name) & set("/:.%\"' ")
    assert best.registered == "arc-diffusion-aa1-6x6"
    values = (0, 12, False, "ema", digest(*DATA), 0)
    assert best.params == dict(zip(checkpoint_models.PARAMS, map(str, values), strict=True))
    weights = paths.CHECKPOINTS / "best.safetensors"
    assert best.tags["arc.digest"] == digest(weights, weights.with_suffix(".json"))
    assert (best.tags["arc.checkpoint"], best.tags["arc.evaluation"]) == ("best", "votes")
    assert not any(key.startswith("mlflow") for key in best.tags)
    assert best.files == {"weights": weights, "description": weights.with_suffix(".json")}
    assert json.loads(best.texts["settings"][1])["evaluation"] == result.evaluations["votes"].model_dump(mode="json")
    assert json.loads(best.texts["pairs"][1]) == [
        {"task": "a", "number": 0, "input": [[1, 2]], "output": [[1], [2]]},
        {"task": "a", "number": 1, "input": [[1, 2]], "output": None},
    ]
    tests = [{"input": [[1, 2]]}, {"input": [[1], [2]]}]
    assert best.example == {"tasks": {"b": {"train": [{"input": [[1, 2]], "output": [[1], [2]]}], "test": tests}}}
    assert best.script.is_file()
    assert [path.name for path in best.code] == ["model", "tasks"]


def test_a_model_answers_by_the_evaluation_of_the_headline_or_the_first(result: Any) -> None:
    only = experiment(predict={"evaluations": ["attempts"]})
    assert [checkpoint_models.served_evaluation(config) for config in (result, only)] == ["votes", "attempts"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: (paths.CHECKPOINTS / "best.safetensors").write_text("x"), "best.safetensors is damaged or belongs"),
        (lambda _: describe("final", seed=9), "final.json is of another seed than"),
        (lambda _: describe("halfway", data="x", train={}), "halfway.json is of another train, data than"),
        (lambda _: source(checkpoint="x"), "best-votes.json is of another checkpoint best than"),
        (lambda _: source(evaluation={}), "best-votes.json is of another evaluation than"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(result: Any, change: Any, says: str) -> None:
    change(result)
    with pytest.raises(StageError, match=says):
        publish.read(result)


def describe(name: str, **changes: Any) -> None:
    file = paths.CHECKPOINTS / f"{name}.json"
    sealed.write(file, {**publish.read_sealed(file), **changes})


def source(**changes: Any) -> None:
    file = paths.score("best", "votes")
    score = publish.read_sealed(file)
    sealed.write(file, score | {"source": score["source"] | changes})


def test_the_key_is_of_every_file_but_the_page_and_each_must_be_there(result: Any) -> None:
    key = publish.content_key(result)
    assert len(key) == 32
    paths.PAGE.write_text("another layout")
    assert publish.content_key(result) == key
    for file in (paths.HISTORY, paths.submission("final", "votes"), paths.CHECKPOINTS / "halfway.json"):
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        assert publish.content_key(result) != key
        file.write_bytes(before)
    paths.PAGE.unlink()
    paths.PROBES.unlink()
    with pytest.raises(StageError, match=rf"no {paths.PROBES}, {paths.PAGE}; run"):
        publish.content_key(result)


@pytest.mark.parametrize(("new", "if_missing"), [(True, False), (False, True)])
def test_the_stage_writes_what_was_published_unless_only_the_store_is_asked(
    result: Any, monkeypatch: Any, capsys: Any, new: bool, if_missing: bool
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("tasks.publish.store.configured_store", lambda: SimpleNamespace(uri="sqlite:///x"))
    monkeypatch.setattr(mlflow_runs, "publish", lambda store, key, read: asked.append((key, read())) or new)
    publish.main(if_missing)
    name = f"{result.title} seed 0"
    assert capsys.readouterr().out == f"{name} {'published to' if new else 'is in'} sqlite:///x\n"
    assert asked[0][1].training.name == name
    assert paths.PUBLISHED.exists() != if_missing
    if not if_missing:
        runs = [name, *(f"{name} {c}-{e}" for c, e in PAIRS)]
        key = publish.content_key(result)
        assert json.loads(paths.PUBLISHED.read_text()) == {"key": key, "experiment": "arc-diffusion", "runs": runs}


def test_hashes_of_the_weights_are_those_of_the_lock(result: Any) -> None:
    assert publish.dvc_hashes() == {}
    outs = [{"path": str(paths.CHECKPOINTS / "best.safetensors"), "md5": "abcd"}, {"path": "x", "md5": "ef"}]
    outs.append({"path": str(paths.CHECKPOINTS / "final.safetensors")})
    paths.LOCK.write_text(yaml.safe_dump({"stages": {"select": {"outs": outs}, "other": {}}}))
    assert publish.dvc_hashes() == {"arc.dvc.best": "abcd"}
    assert publish.restore_note({}, publish.dvc_hashes()) == "- weights best: `.dvc/cache/files/md5/ab/cd`"
    paths.LOCK.write_text("")
    assert publish.dvc_hashes() == {}


@pytest.mark.parametrize(("changed", "branch"), [("", "main"), (" M model/x.py", "")])
def test_the_commit_is_told_with_what_was_changed(monkeypatch: Any, changed: str, branch: str) -> None:
    said = {"rev-parse": "c" * 40, "status": changed, "branch": branch}

    def run(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 0 if command[1] in said else 1, f"{said.get(command[1], '')}\n", "")

    monkeypatch.setattr(publish, "subprocess", SimpleNamespace(run=run))
    tags = publish.code()
    assert tags["mlflow.source.git.commit"] == "c" * 40
    assert tags["mlflow.source.git.dirty"] == ("true" if changed else "false")
    assert tags.get("arc.branch", "") == branch
    del said["rev-parse"]
    assert publish.code() == {}

    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("git")

    monkeypatch.setattr(publish, "subprocess", SimpleNamespace(run=missing))
    assert publish.code() == {}


def test_a_checkpoint_that_answered_is_published_beside_the_three() -> None:
    names = [publish.published(experiment(predict={"checkpoints": asked})) for asked in (["final"], ["late", "final"])]
    assert names == [("best", "halfway", "final"), ("best", "halfway", "final", "late")]
