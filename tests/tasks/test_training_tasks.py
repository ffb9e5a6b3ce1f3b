"""Evaluations of training tasks: what is asked, where its answers lie, and what stands beside the score."""

import json

import numpy as np
import pytest

from model.scoring.wording import TRAINING_TASKS, caveats
from tasks import predict, report, score
from tasks.commands import draw_task, solve
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.files import predictions, tables
from tasks.reporting import gallery, score_table
from tasks.tracking import records
from tests.conftest import experiment
from tests.support.small_experiment import FILES, build, save_checkpoint

SOLVED = FILES["arc-agi_training_solutions.json"]
TRAINING = {"predict": {"checkpoints": ["best"], "evaluations": ["attempts", "attempts-training"]}}


def _names(subset):
    return {name for name, _ in tables.read_pairs(subset)}


def test_their_test_inputs_are_those_whose_answers_are_trained_on(workspace):
    build()
    held_out, asked = _names("validation"), _names("training")
    assert len(held_out) == len(asked) == 1
    assert held_out | asked == set(SOLVED)
    (name,) = asked
    assert json.loads(paths.TRAINING_SOLUTIONS.read_text()) == {name: SOLVED[name]}
    trained = [(a.tolist(), b.tolist()) for (n, _), (a, b) in tables.read_pairs("train").items() if n == name]
    challenge = FILES["arc-agi_training_challenges.json"][name]
    for (_, number), (given, answer) in tables.read_pairs("training").items():
        assert answer is None, "no answer lies beside the test inputs"
        assert given.tolist() == challenge["test"][number]["input"]
        assert (given.tolist(), SOLVED[name][number]) in trained
    # A test pair is no demonstration, although it is trained on.
    shown = [(a.tolist(), b.tolist()) for a, b in tables.read_demonstrations()[name]]
    assert shown == [(pair["input"], pair["output"]) for pair in challenge["train"]]


def _answered(evaluation, **changes):
    config = build(**changes)
    save_checkpoint(config)
    predict.main("best", evaluation)
    return config


def _write_right(evaluation):
    """Replace every answer by the solution, as a network that remembers its training pairs would give it."""
    path = paths.predictions("best", evaluation)
    frame, source = predictions.read(path)
    rows = frame.drop(columns="grid").to_dict("records")
    for row in rows:
        answer = np.array(SOLVED[row["task"]][row["test"]], dtype=np.uint8)
        row |= {"height": answer.shape[0], "width": answer.shape[1], "cells": answer.tobytes(), "frames": []}
        row |= {k: None if v is None else list(v) for k, v in row.items() if k in ("change", "confidences", "entropy")}
    predictions.write(path, rows, source)


@pytest.mark.parametrize("evaluation", ["attempts-training", "votes-training"])
def test_the_score_is_that_of_the_training_answers_and_says_so(workspace, capsys, evaluation):
    _answered(evaluation, evaluations={"votes-training": {"extends": "votes", "subset": "training"}})
    asked = _names("training")
    assert set(predictions.read(paths.predictions("best", evaluation))[0]["task"]) == asked
    _write_right(evaluation)
    score.main("best", evaluation)
    result = json.loads(paths.score("best", evaluation).read_text())
    assert (result["pass_at_2"], set(result["tasks"])) == (1.0, asked)
    assert caveats(result) == (TRAINING_TASKS,)
    assert TRAINING_TASKS in capsys.readouterr().out
    submitted = json.loads(paths.submission("best", evaluation).read_text())
    assert {name: [entry["attempt_1"] for entry in entries] for name, entries in submitted.items()} == {
        name: SOLVED[name] for name in asked
    }


def test_the_scoring_stage_alone_reads_their_solutions(workspace):
    config = _answered("attempts-training")
    before = paths.predictions("best", "attempts-training").read_bytes()
    paths.TRAINING_SOLUTIONS.unlink()
    predict.main("best", "attempts-training")
    assert paths.predictions("best", "attempts-training").read_bytes() == before
    with pytest.raises(SystemExit, match=r"training_solutions\.json cannot be read"):
        score.main("best", "attempts-training")
    assert config.evaluations["attempts-training"].subset == "training"


def test_leaks_and_selection_are_about_evaluation_tasks(workspace):
    save_checkpoint(build(), leaks=3)
    paths.SELECTION.write_text(json.dumps({"on_the_reported_set": True}))
    predict.main("best", "attempts-training")
    score.main("best", "attempts-training")
    assert caveats(json.loads(paths.score("best", "attempts-training").read_text())) == (TRAINING_TASKS,)


@pytest.mark.slow
def test_table_page_gallery_and_mlflow_say_it(workspace, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # Names and caveats are not wrapped.
    config = build(**TRAINING)
    save_checkpoint(config)
    for evaluation in config.predict.evaluations:
        predict.main("best", evaluation)
        if evaluation == "attempts-training":
            _write_right(evaluation)
        score.main("best", evaluation)
    capsys.readouterr()
    score_table.main()
    table = capsys.readouterr().out
    head, _, tail = table.partition("best-attempts-training")
    assert "training tasks" not in head
    assert "training tasks" in tail
    rows = score_table.rows(config)
    assert [row.caveats for row in rows] == [(), (TRAINING_TASKS,)]
    assert [row.settings.endswith("training tasks") for row in rows] == [False, True]
    # Solved training tasks are more than solved evaluation tasks, but the page draws the latter.
    paths.HISTORY.write_text(json.dumps([{"step": 12.0} | dict.fromkeys(_history_keys(), 0.5)]))
    steps = {"best": 6, "halfway": 6, "late": 12, "final": 12}
    selection = {"on_the_reported_set": False, "selected_on": "held-out-training", "candidates": [_candidate()]}
    paths.SELECTION.write_text(json.dumps(selection | steps))
    paths.DIFFERENCES.write_text("[]")
    report.main()
    page = paths.PAGE.read_text()
    assert page.count(f'<span class="mark">{TRAINING_TASKS}</span>') == 2  # Scores, and copies.
    assert "as answered by best-attempts," in page
    assert "2 evaluation tasks" in page
    (name,) = _names("training")
    drawn = gallery.read_puzzles("training")[name]
    challenge = FILES["arc-agi_training_challenges.json"][name]
    assert len(drawn.demonstrations) == len(challenge["train"])
    assert [grid.tolist() for grid in drawn.tests] == [test["input"] for test in challenge["test"]]
    assert name in draw_task.describe(name, "best", "attempts-training", True)[0]

    scores = {("best", e): json.loads(paths.score("best", e).read_text()) for e in config.predict.evaluations}
    assert records.headline(scores).startswith("best-attempts ")
    only = {pair: value for pair, value in scores.items() if pair[1] == "attempts-training"}
    assert records.headline(only).startswith("best-attempts-training 100.0")
    finished = records.Finished(
        config.model_dump(mode="json"), [], {"candidates": []}, {}, scores, None, {}, {}, {pair: {} for pair in scores}
    )
    line = next(x for x in records.note(finished).splitlines() if x.startswith("| best-attempts-training"))
    assert f"**{TRAINING_TASKS}**" in line
    tags = records.evaluation(finished, ("best", "attempts-training")).tags
    assert tags["arc.caveats"] == TRAINING_TASKS
    assert records.evaluation(finished, ("best", "attempts")).tags["arc.caveats"] == ""


def _history_keys():
    from tasks.reporting.panels import TRAINING as METRICS

    return [*METRICS.values(), *(f"{key}_{i}" for key in ("accuracy", "cross_entropy") for i in range(3))]


def _candidate():
    shares = dict.fromkeys(("pass_at_1", "pass_at_2", "cell_accuracy", "sizes_correct"), 0.5)
    return {"step": 6, "ci95": [0.1, 0.9], "grids_solved": 1, "n_grids": 2, "n_tasks": 1} | shares


def test_solve_answers_them_at_the_sizes_of_the_stage_without_their_solutions(workspace):
    files = json.loads(json.dumps(FILES))
    for solutions in files["arc-agi_training_solutions.json"].values():
        solutions[:] = [[[1] * 5] * 5 for _ in solutions]  # No demonstration says this size.
    votes = {"extends": "votes", "subset": "training", "sizes": "rule"}
    save_checkpoint(build(files, evaluations={"votes-training": votes}))
    predict.main("best", "votes-training")
    score.main("best", "votes-training")
    (name,) = _names("training")
    file = workspace / "one.json"
    file.write_text(json.dumps({name: FILES["arc-agi_training_challenges.json"][name]}))
    solve.main(file, paths.CHECKPOINTS / "best", "votes-training", workspace / "mine.json", draw=False)
    mine = json.loads((workspace / "mine.json").read_text())
    assert mine == json.loads(paths.submission("best", "votes-training").read_text())


def test_without_training_tasks_left_it_is_refused(workspace):
    config = build(prepare={"validation_tasks": 2})
    save_checkpoint(config)
    with pytest.raises(SystemExit, match=r"no test input of training tasks .* hold out fewer"):
        predict.main("best", "attempts-training")


def test_select_asks_validation_tasks_only():
    with pytest.raises(ConfigurationError, match=r"select.subset is 'training'; select asks the tasks that prepare"):
        experiment(select={"subset": "training"})
