"""The stage predict with several processes, with answers that fail, and of which weights it says it is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from model.inference.answer import Failure
from tasks import predict
from tasks.common import paths
from tasks.files import predictions
from tasks.machine.answers import answers
from tests.support.small_experiment import build, save_checkpoint

MORE = {"votes": {"ranking": {"candidates": 2, "views": 2, "levels": 2}}}


@pytest.fixture
def workers(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Predicts as one process of several; the others have ended before."""

    def run(rank: int, count: int) -> list[str]:
        waited: list[str] = []
        made = SimpleNamespace(rank=rank, count=count, wait=lambda: waited.append("waited"))
        monkeypatch.setattr(predict, "Workers", lambda: made)
        predict.predict("best", "votes")
        return waited

    return run


def test_several_processes_predict_what_one_does(workers: Any) -> None:
    save_checkpoint(build(evaluations=MORE))
    path = paths.predictions("best", "votes")
    assert workers(0, 1) == []
    whole = pq.read_table(path)
    path.unlink()
    assert workers(1, 2) == ["waited"]
    assert not path.exists(), "the first process alone joins the parts"
    parts = list((paths.SCRATCH / "predict").iterdir())
    assert [part.name for part in parts] == ["best-votes.parquet-1"]
    assert 0 < len(pq.read_table(parts[0])) < len(whole)
    assert workers(0, 2) == ["waited"]
    together = pq.read_table(path)
    assert together.schema.equals(whole.schema, check_metadata=True), "and of one source"
    names = ["task", "test", "view", "attempt", "height", "width", "cells"]
    assert together.select(names).equals(whole.select(names))
    for name in ("size_log_probability", "confidence"):  # Other grids in a batch: other sums in the last digit.
        assert together[name].to_pylist() == pytest.approx(whole[name].to_pylist(), rel=1e-4)
    assert list((paths.SCRATCH / "predict").iterdir()) == []


@pytest.mark.parametrize(
    ("evaluated", "trained", "said"),
    [("as-trained", "raw", "raw"), ("as-trained", "ema", "ema"), ("ema", "raw", "ema")],
)
def test_the_weights_are_those_of_the_evaluation_or_of_the_training(
    workers: Any, evaluated: str, trained: str, said: str
) -> None:
    config = build(evaluations={"votes": {"weights": evaluated}}, seed=4)
    described = save_checkpoint(config, weights=trained, leaks=2, step=9)
    workers(0, 1)
    _, source = predictions.read(paths.predictions("best", "votes"))
    assert source.weights == said
    assert (source.step, source.leaks, source.seed, source.evaluation_name) == (9, 2, 4, "votes")
    assert (source.experiment, source.data, source.evaluation) == (
        config.name,
        described.data,
        config.evaluations["votes"],
    )


def test_a_test_input_has_its_own_values_in_the_order_of_tasks_tests_and_views(workers: Any) -> None:
    save_checkpoint(build(evaluations=MORE))
    workers(0, 1)
    rows = pq.read_table(paths.predictions("best", "votes")).to_pylist()
    keys = [(row["task"], row["test"], row["view"], row["attempt"]) for row in rows]
    tests = [("cccccccc", 0), ("dddddddd", 0), ("dddddddd", 1)]
    assert keys == [(*test, view, 0) for test in tests for view in range(8)]
    for row in rows:
        assert len(row["cells"]) == row["height"] * row["width"]
        steps = ("change", "confidences", "entropy")
        assert [row[name] is None for name in steps] == [row["view"] > 0] * 3
        assert (row["frames"] == []) == (row["view"] > 0)
        assert 0 <= row["confidence"] <= 1
        assert row["size_log_probability"] <= 0
    assert any(row["log_likelihoods"] is None for row in rows)
    assert any(row["log_likelihoods"] is not None for row in rows)


def failing(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """Have answers of two test inputs fail, in another order than they are told; of others one is `kept`."""

    def some(stem: Any, split: str, config: Any, seed: int, failures: list[Failure], share: Any) -> Any:
        given, dataset, names = answers(stem, split, config, seed, [], share)
        made = list(given)
        failures += [Failure(2, 3, 0, "second"), Failure(1, 4, 1, "first")]
        return iter(made[:1] if kept else []), dataset, names

    monkeypatch.setattr(predict, "answers", some)


def test_failed_answers_are_named_and_kept_in_the_source(workers: Any, monkeypatch: Any, capsys: Any) -> None:
    save_checkpoint(build())
    failing(monkeypatch, True)
    capsys.readouterr()
    workers(0, 1)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "task dddddddd, test 1, view 3, attempt 0 failed and counts as wrong: second",
        "task dddddddd, test 0, view 4, attempt 1 failed and counts as wrong: first",
    ]
    frame, source = predictions.read(paths.predictions("best", "votes"))
    assert source.failures == (("dddddddd", 1, 3, 0, "second"), ("dddddddd", 0, 4, 1, "first"))
    assert len(frame) == 1


def test_where_every_answer_fails_there_is_no_result(workspace: Path, monkeypatch: Any) -> None:
    save_checkpoint(build())
    failing(monkeypatch, False)
    with pytest.raises(SystemExit) as ended:
        predict.main("best", "votes")
    says = "predict: all 2 answers failed, the first of them of task dddddddd, test 1: second"
    assert str(ended.value) == says
    assert not paths.predictions("best", "votes").exists()


def test_no_answer_and_no_failure_is_an_empty_result(workspace: Path, monkeypatch: Any) -> None:
    save_checkpoint(build())
    monkeypatch.setattr(predict, "answers", lambda *given: (iter(()), *answers(*given)[1:]))
    predict.main("best", "votes")
    frame, source = predictions.read(paths.predictions("best", "votes"))
    assert (len(frame), source.failures) == (0, ())


def test_more_processes_are_started_with_the_same_arguments(workspace: Path, monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(predict, "spread", lambda *given: asked.append(given))
    monkeypatch.setattr(predict, "predict", lambda *given: asked.append(given))
    predict.main("best", "votes")
    assert asked == [("tasks.predict", "best", "votes"), ("best", "votes")]


def test_an_evaluation_that_is_not_defined_is_refused_with_those_that_are(workspace: Path) -> None:
    build()
    with pytest.raises(SystemExit, match=r"^predict: data/experiment.yaml has no evaluation 'nosuch'; defined are "):
        predict.main("best", "nosuch")
