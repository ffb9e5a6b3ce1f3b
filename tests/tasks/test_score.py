"""The stage `score`: failures, leaks and selections that are said, votes replayed as they were taken live, and fast."""

import json
import time

import numpy as np
import pytest

from model.scoring.vote_rules import RULES
from tasks import predict, score, select, train
from tasks.common import paths
from tasks.files import predictions
from tests.conftest import experiment
from tests.support.small_experiment import ANSWERS, CHALLENGES, FILES, arc_1, build, save_checkpoint

VOTES_72 = {"steps": 32, "answers": {"views": 72}}


def test_a_task_that_raises_stays_in_the_denominator(workspace, monkeypatch, capsys):
    from model.inference.predictor import Predictor

    config = build()
    save_checkpoint(config)
    denoise = Predictor._denoise

    def broken(self, queries, *rest):
        if any(self.dataset.pairs.task[pair] == self.names.index("dddddddd") for pair, _, _ in queries):
            raise RuntimeError("out of memory")
        return denoise(self, queries, *rest)

    for evaluation in ("attempts", "votes"):
        predict.main("best", evaluation)
        score.main("best", evaluation)
        whole = json.loads(paths.score("best", evaluation).read_text())
        monkeypatch.setattr(Predictor, "_denoise", broken)
        predict.main("best", evaluation)
        score.main("best", evaluation)
        monkeypatch.setattr(Predictor, "_denoise", denoise)
        result = json.loads(paths.score("best", evaluation).read_text())
        assert (result["n_tasks"], result["n_grids"]) == (whole["n_tasks"], whole["n_grids"]) == (2, 3)
        assert result["missing"] == [["dddddddd", 0], ["dddddddd", 1]]
        assert {f[0] for f in result["source"]["failures"]} == {"dddddddd"}
        assert {f[4] for f in result["source"]["failures"]} == {"RuntimeError: out of memory"}
        assert result["tasks"]["cccccccc"] == whole["tasks"]["cccccccc"]
        assert "task dddddddd, test 0 has no answer and counts as wrong" in capsys.readouterr().out
        assert (
            json.loads(paths.submission("best", evaluation).read_text())["dddddddd"]
            == [{"attempt_1": [[0]], "attempt_2": [[0]]}] * 2
        )


def test_a_fault_of_everything_is_not_taken_for_bad_luck(workspace, monkeypatch):
    from model.inference import batching, predictor

    save_checkpoint(build())
    monkeypatch.setattr(batching, "MOST_FAILURES", 2)

    def broken(*_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(predictor.Predictor, "_denoise", broken)
    with pytest.raises(RuntimeError, match="no kernel image"):
        predict.main("best", "attempts")
    assert not paths.predictions("best", "attempts").exists()


def test_leaks_are_refused_unless_allowed_and_then_said(workspace, capsys):
    save_checkpoint(build(), leaks=3)
    predict.main("best", "attempts")
    with pytest.raises(SystemExit, match="3 evaluated pairs were trained on"):
        score.main("best", "attempts")
    assert not paths.score("best", "attempts").exists()
    build(score={"allow_leaks": True})
    score.main("best", "attempts")
    assert json.loads(paths.score("best", "attempts").read_text())["source"]["leaks"] == 3
    assert "trained on evaluated pairs (3)" in capsys.readouterr().out


@pytest.mark.parametrize("checkpoint", ["best", "final"])
def test_a_selection_on_the_reported_set_is_said(workspace, capsys, checkpoint):
    save_checkpoint(build(), checkpoint)
    paths.SELECTION.write_text(json.dumps({"on_the_reported_set": True}))
    predict.main(checkpoint, "votes")
    score.main(checkpoint, "votes")
    result = json.loads(paths.score(checkpoint, "votes").read_text())
    assert result["selected_on_the_reported_set"] == (checkpoint == "best")
    assert ("selected on the reported set" in capsys.readouterr().out) == (checkpoint == "best")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["most-frequent", "confidence", "certainty", "most-visited"])
def test_votes_replayed_are_the_votes_taken_live(workspace, rule):
    """The file of 8 views, counted with 5 of them, is what 5 views would have answered."""
    config = build(evaluations={"votes": {"sizes": "own"}}, score={"rule": rule, "views": 5})
    save_checkpoint(config)
    predict.main("best", "votes")
    frame, _ = predictions.read(paths.predictions("best", "votes"))
    assert (frame.groupby(["task", "test"])["cells"].nunique() > 2).any()
    score.main("best", "votes")
    replayed = json.loads(paths.submission("best", "votes").read_text())
    build(evaluations={"votes": {"sizes": "own", "answers": {"views": 5}}}, score={"rule": rule})
    predict.main("best", "votes")
    score.main("best", "votes")
    assert json.loads(paths.submission("best", "votes").read_text()) == replayed


@pytest.mark.slow
def test_72_votes_of_419_grids_replay_within_10_seconds(workspace):
    real = arc_1()
    draws = np.random.default_rng(0)
    rows = []
    for name, grids in real.items():
        for i, grid in enumerate(grids):
            skill = draws.beta(0.3, 0.6)
            for view in range(72):
                answer = grid.copy()
                if draws.random() > skill:
                    answer.ravel()[draws.integers(0, grid.size, 3)] = draws.integers(0, 10, 3)
                curve = None if view else [0.5] * 32
                rows.append(
                    {
                        "task": name,
                        "test": i,
                        "view": view,
                        "attempt": 0,
                        "height": answer.shape[0],
                        "width": answer.shape[1],
                        "cells": answer.tobytes(),
                        "size_log_probability": -0.1,
                        "confidence": float(draws.random()),
                        "last_changed_step": int(draws.integers(0, 32)),
                        "change": curve,
                        "confidences": curve,
                        "entropy": curve,
                        "frames": [],
                    }
                )
    source = predictions.Source(
        checkpoint="0" * 64,
        step=1,
        weights="ema",
        experiment="v3/tiny/aa1",
        seed=0,
        evaluation_name="votes",
        evaluation=experiment(dataset="aa1", evaluations={"votes": VOTES_72}).evaluations["votes"],
        data="0" * 64,
        leaks=0,
        failures=(),
    )
    predictions.write(paths.predictions("final", "votes"), rows, source)
    assert paths.predictions("final", "votes").stat().st_size < 5 << 20
    paths.CHECKPOINTS.mkdir()
    paths.SELECTION.write_text(json.dumps({"on_the_reported_set": False}))
    start = time.process_time()
    score.main("final", "votes")
    assert time.process_time() - start < 10
    result = json.loads(paths.score("final", "votes").read_text())
    assert [point["views"] for point in result["votes"]["curve"]] == [1, 2, 4, 8, 16, 32, 64, 72]
    assert result["votes"]["curve"][-1]["pass_at_2"] == pytest.approx(result["pass_at_2"], abs=1e-6)
    assert len(result["votes"]["rules"]) == 2 * (len(RULES) - 1), "each with and without sizes first; no likelihoods"


@pytest.mark.slow
def test_a_model_that_saw_an_evaluated_pair_under_a_view_is_refused(workspace):
    """From the files to the refusal: a training pair is a test pair of another task, transposed and recoloured."""
    files = json.loads(json.dumps(FILES))
    given, answer = (np.array(g) for g in (files[CHALLENGES]["cccccccc"]["test"][0]["input"], ANSWERS["cccccccc"][0]))
    colours = np.array([0, 2, 3, 4, 5, 6, 7, 8, 9, 1])
    seen = {"input": colours[given.T].tolist(), "output": colours[answer.T].tolist()}
    files["arc-agi_training_challenges.json"]["aaaaaaaa"]["train"].append(seen)
    for leaks, refused in (("keep", True), ("drop", False)):
        build(files, prepare={"validation_tasks": 1, "leaks": leaks})
        train.main()
        select.main()
        predict.main("best", "attempts")
        if refused:
            with pytest.raises(SystemExit, match="1 evaluated pairs were trained on"):
                score.main("best", "attempts")
        else:
            score.main("best", "attempts")
        assert paths.score("best", "attempts").exists() != refused
