"""Where a member of a pool is read from: a worktree or a kept result, and what is refused of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tasks.commands import pool
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files import cost, predictions
from tests.conftest import ROOT, experiment
from tests.support.kept_votes import GRID, TESTS, put
from tests.support.small_experiment import ANSWERS, build


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "data").mkdir()
        build()
    return folder


@pytest.fixture
def worktree(workspace: Path, built: Path) -> Path:
    (workspace / "presets.yaml").write_text((ROOT / "presets.yaml").read_text())
    shutil.copytree(built, workspace, dirs_exist_ok=True)
    put(paths.predictions("final", "votes"))
    return workspace


def refused(name: str, checkpoint: str = "final", evaluation: str = "votes") -> str:
    with pytest.raises(StageError) as error:
        pool.read(name, checkpoint, evaluation)
    return str(error.value)


def test_a_worktree_says_its_tasks_parameters_and_cost(worktree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere := worktree / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    for name in ("..", "../data/predictions/final-votes.parquet"):
        found = pool.read(name, "final", "votes")
        assert found.path.samefile(worktree / paths.predictions("final", "votes"))
        assert (found.checkpoint, len(found.frame), found.cost) == ("final", 3, None)
        assert {task: [grid.tolist() for grid in grids] for task, grids in found.solutions.items()} == ANSWERS
        assert sorted(found.inputs) == TESTS
        assert found.values["title"] == experiment(prepare={"validation_tasks": 1}).title
        assert found.selection == {"on_the_reported_set": False}
    monkeypatch.chdir(worktree)
    cost.add(experiment(prepare={"validation_tasks": 1}), 60.0, "GPU")
    spent = pool.read(".", "final", "votes").cost
    assert spent
    assert (spent["seconds"], spent["device"]) == (60.0, "GPU")


def test_what_names_no_predictions_is_refused(worktree: Path) -> None:
    advice = "give a worktree, a kept result, or a parquet file there"
    missing = worktree / paths.predictions("best", "votes")
    there = "its folder has final-votes: give --checkpoint and --evaluation"
    assert refused(".", "best") == f"'.' names no predictions: {missing} is missing; {there}"
    for name in ("presets.yaml", "none.parquet"):
        assert refused(name) == f"{name!r} names no predictions: {worktree / name} is missing; {advice}"
    paths.EXPERIMENT.unlink()
    path = worktree / paths.predictions("final", "votes")
    says = f"{path} has no {worktree / paths.EXPERIMENT} beside it, which says its tasks and costs"
    assert refused(".") == says


def test_attempts_and_broken_parameters_are_refused(worktree: Path) -> None:
    path = worktree / put(paths.predictions("final", "attempts"), "attempts")
    assert refused(".", evaluation="attempts") == f"{path} holds no votes: attempts answers by 'attempts'"
    paths.EXPERIMENT.write_text("[]")
    place = worktree / paths.EXPERIMENT
    assert refused(".") == f"{place} is no experiment: {place}: expected sections, found '[]'"


@pytest.fixture
def kept(worktree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kept result; its evaluation tasks are those of the small experiment."""
    place = worktree / "kept"
    put(place / "best-votes.parquet")
    (place / "experiment.yaml").write_text(yaml.safe_dump(experiment().model_dump(mode="json")))
    (place / "selection.json").write_text('{"on_the_reported_set": true}')
    solutions = {task: [np.array(grid, dtype=np.uint8) for grid in grids] for task, grids in ANSWERS.items()}
    monkeypatch.setattr(pool, "evaluation_tasks", lambda values: ({(values["title"], 0): GRID}, solutions))
    return place


def test_a_kept_result_says_it_beside_its_predictions(kept: Path) -> None:
    found = pool.read("kept", "best", "votes")
    assert found.path == kept / "best-votes.parquet"
    assert (found.checkpoint, found.cost, found.selection) == ("best", None, {"on_the_reported_set": True})
    assert list(found.inputs) == [(experiment().title, 0)]
    assert list(found.solutions) == ["cccccccc", "dddddddd"]
    (kept / "cost.json").write_text('{"seconds": 5}')
    assert pool.read("kept/best-votes.parquet", "x", "y").cost == {"seconds": 5}


def test_a_kept_result_of_other_tasks_is_refused(kept: Path) -> None:
    path = put(kept / "best-votes.parquet", subset="training")
    assert refused("kept", "best") == f"{path} is of training tasks; of kept results only evaluation tasks"
    put(kept / "best-votes.parquet")
    (kept / "experiment.yaml").write_text("3")
    place = kept / "experiment.yaml"
    assert refused("kept", "best") == f"{place} is no experiment: {place}: expected sections, found '3'"
    (kept / "experiment.yaml").write_text("version: v3\nsize: tiny\ndataset: aa1\nfetch: {source: own}\n")
    assert refused("kept", "best").startswith(f"{place}: section prepare is None; copy the resolved ")


def test_the_result_needs_a_new_folder_in_one_that_exists(worktree: Path) -> None:
    names = [".", "."]
    with pytest.raises(SystemExit, match=r"^pool: data exists; name a new folder with --to$"):
        pool.main(names, Path("data"))
    says = f"pool: none/new cannot be written: the folder {worktree}/none does not exist"
    with pytest.raises(SystemExit) as ended:
        pool.main(names, Path("none/new"))
    assert str(ended.value) == says
    with pytest.raises(SystemExit, match="of one checkpoint"):
        pool.main(names, Path("new"), "final")
    assert not list(worktree.glob(".pool-*"))


@pytest.mark.parametrize(("first", "stem"), [("halfway", "halfway"), ("best", "best")])
def test_a_pool_is_named_after_the_first_or_best_and_its_cost_may_be_unknown(
    worktree: Path, capsys: pytest.CaptureFixture[str], first: str, stem: str
) -> None:
    files = [paths.predictions(name, "votes").as_posix() for name in (first, "final2")]
    put(Path(files[0]), digest="a" * 64)
    put(Path(files[1]), digest="b" * 64)
    capsys.readouterr()
    others = {"one": " --checkpoint halfway", "two": " --checkpoint final2"}
    options = dict.fromkeys(others, "") if stem == "best" else others
    for to, names in (("one", files), ("two", files[::-1])):
        pool.main(names, Path(to))
        assert capsys.readouterr().out.splitlines() == [
            "pool of 2: pass@2 0.0 % [0.0–84.2], 0 of 3 grids, 2 tasks, cost unknown",  # 1 - 0.025 ** (1 / 2)
            f"next: arc compare {to} OTHER{options[to]}, arc import {to}",
        ]
        name = f"{stem if to == 'one' or stem == 'best' else 'final2'}-votes"
        assert (Path(to) / "data/scores" / f"{name}.json").exists()
        frame, source = predictions.read(Path(to) / f"{name}.parquet")
        assert (sorted(frame["view"]), source.evaluation.views) == ([0] * 3 + [8] * 3, 16)
        assert not (Path(to) / "cost.json").exists()
        described = ", ".join(f"{experiment().name} seed 0 {Path(n).stem.split('-')[0]}" for n in names)
        assert (Path(to) / "README.md").read_text() == f"Votes pooled of {described}.\n"
        values = yaml.safe_load((Path(to) / "experiment.yaml").read_text())
        assert values["title"] == f"{experiment(prepare={'validation_tasks': 1}).title} pool of 2"
        selection = json.loads((Path(to) / "selection.json").read_text())
        assert selection == {"on_the_reported_set": False, "criterion": "pass-at-2", "candidates": []}
        assert json.loads((Path(to) / "history.json").read_text()) == []
