"""What may vote together, and what a pool says of its members; the predictions are made up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.commands import pool
from tasks.commands.pool import Member
from tasks.common.stage import StageError
from tasks.files import predictions
from tests.conftest import ROOT, experiment

ONE, TWO = np.array([[1, 2]], dtype=np.uint8), np.array([[3], [4]], dtype=np.uint8)
SOLUTIONS = {"a": [ONE], "b": [ONE, TWO]}
INPUTS = {("a", 0): TWO, ("b", 0): ONE, ("b", 1): TWO}
RANKING = {"candidates": 2, "views": 2, "levels": 2}


@pytest.fixture(autouse=True)
def _presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets.yaml").write_text((ROOT / "presets.yaml").read_text())


def member(number: int = 0, views: int = 3, score: Any = None, evaluation: Any = None, **changes: Any) -> Member:
    """A member with a checkpoint of its own; `changes` of its source, or of the member where they are its."""
    ranked = {"votes": {"ranking": RANKING}} if score and score.get("rule") == "likelihood" else {}
    config = experiment(score=score or {}, evaluations=ranked)
    own = config.evaluations["votes"].model_dump(mode="json")
    own |= {"answers": {"by": "votes", "views": views}, "ranking": None}
    source = {
        "checkpoint": f"{number}" * 64,
        "step": 12,
        "weights": "ema",
        "experiment": "v3/tiny/aa1",
        "seed": number,
        "evaluation_name": "votes",
        "evaluation": own | (evaluation or {}),
        "data": f"{number}" * 64,
        "leaks": 0,
        "failures": [],
    }
    of_source = {name: value for name, value in changes.items() if name in source}
    fields: dict[str, Any] = {
        "path": Path(f"m{number}.parquet"),
        "checkpoint": "best",
        "frame": pd.DataFrame({"view": np.arange(views, dtype=np.int16), "log_likelihoods": [[0.5]] * views}),
        "source": predictions.Source.model_validate_json(json.dumps(source | of_source)),
        "values": config.model_dump(mode="json") | {"title": f"title {number}"},
        "selection": {"on_the_reported_set": False},
        "cost": {"seconds": 10.0 * (number + 1), "device": f"GPU {number}"},
        "solutions": SOLUTIONS,
        "inputs": INPUTS,
    }
    return Member(**fields | {name: value for name, value in changes.items() if name in fields})


def refused(*members: Member) -> str:
    with pytest.raises(StageError) as error:
        pool.check(members)
    return str(error.value)


def test_two_checkpoints_of_alike_evaluations_may_vote_together() -> None:
    pool.check([member(0), member(1), member(2, views=30_000)])
    pool.check([member(0), member(1, seed=0, data="0" * 64)])


def test_fewer_than_two_or_the_same_twice_may_not() -> None:
    assert refused() == refused(member(0)) == "a pool needs two or more predictions"
    says = "m1.parquet and m2.parquet are of one checkpoint: its votes would count twice"
    same = member(2)._replace(source=member(1).source)
    assert refused(member(0), member(1), same) == says


def test_one_seed_of_two_data_sets_may_not() -> None:
    assert refused(member(0), member(1), member(2, seed=1)) == (
        "m1.parquet and m2.parquet are of v3/tiny/aa1 seed 1, but of other data (11111111, 22222222); make one of them "
        "again"
    )
    pool.check([member(0), member(1), member(2, seed=1, experiment="v4/tiny/aa1")])


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"solutions": {"a": [ONE]}}, "2 and 1 tasks, 1"),
        ({"solutions": {"a": [TWO], "b": [ONE, TWO]}}, "2 and 2 tasks, 2"),
        ({"solutions": {"a": [ONE], "c": [ONE]}, "inputs": INPUTS | {("c", 0): ONE}}, "2 and 2 tasks, 1"),
        ({"inputs": INPUTS | {("b", 1): ONE}}, "2 and 2 tasks, 2"),
    ],
)
def test_other_test_inputs_or_solutions_may_not(changes: Any, counts: str) -> None:
    assert refused(member(0), member(1, **changes)) == (
        f"m0.parquet and m1.parquet are over other test inputs or solutions ({counts} of the same name), and cannot be "
        "pooled"
    )


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({"evaluation": {"steps": 5}}, "steps (2, 5)"),
        ({"score": {"size_first": True}}, "size_first (False, True)"),
        ({"evaluation": {"steps": 5, "limit": 2}, "score": {"size_first": True}}, None),
    ],
)
def test_other_settings_may_not(changes: Any, differ: str | None) -> None:
    says = refused(member(0), member(1, **changes))
    assert says.startswith("m0.parquet and m1.parquet differ in ")
    assert says.endswith("; only their numbers of views may")
    if differ:
        assert differ == says.split(" differ in ")[1].split("; only")[0]
    else:
        assert [part in says for part in ("steps (2, 5)", "limit (0, 2)", "size_first (False, True)")] == [True] * 3


def test_likelihoods_must_be_alike_only_where_they_count() -> None:
    pool.check([member(0), member(1, evaluation={"ranking": RANKING})])
    rule = {"rule": "likelihood"}
    says = refused(member(0, score=rule), member(1, score=rule, evaluation={"ranking": RANKING}))
    assert "differ in ranking (None, {" in says


def test_all_views_vote_and_there_are_so_many_at_most() -> None:
    score = {"views": 2}
    assert refused(member(0, score=score), member(1, score=score)) == (
        "score.views of m0.parquet is 2; a pool needs 0, that all views vote"
    )
    pool.check([member(0, views=30_000), member(1, views=2767)])
    assert refused(member(0, views=30_000), member(1, views=2768)) == (
        "32768 views are too many to pool; at most 32767"
    )


def test_leaks_are_allowed_by_the_first() -> None:
    says = "3 evaluated pairs were trained on; score.allow_leaks of the first does not allow it"
    assert refused(member(0, leaks=2), member(1, leaks=3)) == says
    allowed = {"allow_leaks": True}
    pool.check([member(0, score=allowed, leaks=2), member(1, score=allowed, leaks=3)])


def test_views_are_numbered_on_and_the_source_describes_all() -> None:
    failures = [["a", 0, 1, 0, "why"]]
    first = member(0, failures=failures, leaks=1, step=4, evaluation={"ranking": RANKING})
    second = member(1, views=2, failures=failures, weights="raw", evaluation={"ranking": RANKING})
    third = member(2, failures=failures, data="1" * 64, evaluation={"ranking": RANKING})
    frame, source = pool.joined([first, second, third])
    assert frame["view"].tolist() == list(range(8))
    assert frame.index.tolist() == list(range(8))
    assert frame["log_likelihoods"].tolist() == [[0.5]] * 8
    assert [failure[2] for failure in source.failures] == [1, 4, 6]
    assert {failure[:2] + failure[3:] for failure in source.failures} == {("a", 0, 0, "why")}
    assert (source.evaluation.views, source.step, source.leaks, source.weights) == (8, 12, 1, "ema, raw")
    assert source.evaluation.ranking is not None
    assert len({source.checkpoint, *(m.source.checkpoint for m in (first, second, third))}) == 4
    assert source.data not in {"0" * 64, "1" * 64}
    frame, source = pool.joined([first, member(1, seed=0, data="0" * 64)])
    assert (source.data, source.weights, source.evaluation.ranking) == ("0" * 64, "ema", None)
    assert frame["log_likelihoods"].isna().all()


def test_a_training_costs_once_and_an_unknown_cost_is_unknown() -> None:
    def spent(*members: Member) -> dict[str, Any]:
        return pool._spent(members)

    again = member(5, seed=0, data="0" * 64)
    again = again._replace(values={**again.values, "title": "title 0"}, cost=member(0).cost)
    assert again.training == member(0).training
    assert spent(member(0), again, member(1)) == {"seconds": 30.0, "device": "GPU 0, GPU 1"}
    assert spent(member(1), member(0)) == {"seconds": 30.0, "device": "GPU 0, GPU 1"}
    longer = again._replace(values={**again.values, "train": {"optimizer_steps": 7}}, cost=member(1).cost)
    assert spent(member(0), longer)["seconds"] == 30.0, "another training, though seed and title are the same"
    assert spent(member(0), member(1, cost=None)) == {"seconds": None, "device": "GPU 0"}
    assert spent(member(0), member(1, cost={"commit": "x"})) == {"seconds": None, "device": "GPU 0"}
    assert spent(member(0, cost=None)) == {"seconds": None, "device": None}


def test_a_member_is_described_by_its_source_and_cost() -> None:
    described = {
        "experiment": "v3/tiny/aa1",
        "seed": 1,
        "checkpoint": "best",
        "digest": "1" * 64,
        "data": "1" * 64,
        "views": 3,
        "seconds": 20.0,
    }
    assert pool._described(member(1)) == described
    assert pool._described(member(1, cost=None)) == described | {"seconds": None}
