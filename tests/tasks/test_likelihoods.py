"""Likelihoods from the stage predict to the score: kept, counted, refused where missing, and weighed."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.scoring.wording import VALIDATION_TASKS, caveats
from tasks import predict, score
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.files import predictions
from tasks.files.proposals import proposals
from tests.conftest import experiment
from tests.support.small_experiment import build, save_checkpoint

RANKING = {"candidates": 3, "views": 2, "levels": 2}
RULE = {"rule": "likelihood", "likelihood": {"weight": 1000.0, "per": "cell"}}


def _score(name="votes"):
    score.main("best", name)
    return json.loads(paths.score("best", name).read_text())


def test_what_predict_keeps_score_counts(workspace):
    save_checkpoint(build(evaluations={"votes": {"ranking": RANKING}}))
    predict.main("best", "votes")
    frame, source = predictions.read(paths.predictions("best", "votes"))
    ranked = frame[frame["log_likelihoods"].notna()]
    assert {len(values) for values in ranked["log_likelihoods"]} == {2}
    assert {len(of_view) for values in ranked["log_likelihoods"] for of_view in values} == {2}
    votes = _score()
    build(evaluations={"votes": {"ranking": RANKING}}, score=RULE)
    weighed = _score()
    assert weighed["votes"]["rule"] == "likelihood"
    views = proposals(frame, source.evaluation)
    submitted = json.loads(paths.submission("best", "votes").read_text())
    for (task, test), given in views.items():
        own = ranked[(ranked["task"] == task) & (ranked["test"] == test)]
        assert len(own) == min(3, len(given.candidates))
        means = [float(np.mean(np.stack(values))) for values in own["log_likelihoods"]]
        best = own["grid"].iloc[int(np.argmax(means))]
        assert submitted[task][test]["attempt_1"] == best.tolist()
    rows = weighed["votes"]["likelihood_weights"]
    assert rows == votes["votes"]["likelihood_weights"]
    assert {row["rule"] for row in weighed["votes"]["rules"]} >= {"likelihood"}


def test_without_likelihoods_the_rule_is_refused(workspace):
    save_checkpoint(build())
    predict.main("best", "votes")
    with pytest.raises(ConfigurationError, match="evaluation 'votes' has no ranking, so that it keeps no likelihoods"):
        build(score=RULE)
    build(evaluations={"votes": {"ranking": RANKING}}, score=RULE)
    with pytest.raises(SystemExit, match=r"predictions of votes hold no likelihoods; set evaluations\.votes\.ranking"):
        score.main("best", "votes")


def test_a_file_from_before_likelihoods_is_read(workspace):
    save_checkpoint(build())
    predict.main("best", "votes")
    path = paths.predictions("best", "votes")
    before = _score()
    table = pq.read_table(path).drop_columns(["log_likelihoods"])
    source = json.loads(table.schema.metadata[b"source"])
    for name in ("ranking", "stop_decided"):
        del source["evaluation"][name]
    pq.write_table(table.replace_schema_metadata({"source": json.dumps(source)}), path)
    assert _score() == before


@pytest.mark.slow
def test_on_validation_tasks_score_says_the_best_weight(workspace, capsys):
    config = build(evaluations={"votes-validation": {"ranking": RANKING}})
    assert config.evaluations["votes-validation"].subset == "validation"
    save_checkpoint(config)
    predict.main("best", "votes-validation")
    result = _score("votes-validation")
    assert result["n_tasks"] == 1  # prepare.validation_tasks
    assert caveats(result) == (VALIDATION_TASKS,)
    said = capsys.readouterr().out
    assert "best on these tasks: score.likelihood {weight: 0, per: cell}, pass@2 0.0 %" in said
    assert VALIDATION_TASKS in said


def test_validation_tasks_that_are_evaluation_tasks_are_not_asked_as_such():
    with pytest.raises(ConfigurationError, match=r"votes-validation: subset is 'validation', but prepare\.valid"):
        experiment(prepare={"validation": "evaluation-solutions"}, predict={"evaluations": ["votes-validation"]})


def test_only_votes_have_candidates():
    with pytest.raises(ConfigurationError, match="ranking needs answers by 'votes'; they are by 'attempts'"):
        experiment(evaluations={"attempts": {"ranking": RANKING}})
