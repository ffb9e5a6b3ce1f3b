"""Results that are grouped by their settings, and what a store or a folder with something wrong says."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from model.storage import sealed
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.comparison import results
from tasks.comparison.results import Result, group_seeds
from tests.support.random_scores import four, made_score


def result(where: str = "a", seed: int = 0, parameters: Any = None, tasks: Any = "t", **source: Any) -> Result:
    checkpoint = source.pop("checkpoint", "best")
    own = {"experiment": "v3/tiny/aa1", "seed": seed, "evaluation": {"steps": 2, "sizes": "own"}} | source
    known = {"x": "1", "y": "2"} if parameters is None else parameters
    return Result(where, {"source": own, "checkpoint": checkpoint, "tasks": tasks}, known, None, None, None)


def grouped(*given: Result, apart: bool = False) -> list[list[tuple[str, int]]]:
    groups, notes = group_seeds(given, apart)
    assert notes == []
    return [[(one.where, one.seed) for one in group] for group in groups]


def test_seeds_of_one_setting_are_one_group_unless_apart() -> None:
    three = [result("a", 0), result("b", 1), result("c", 2)]
    assert grouped(*three) == [[("a", 0), ("b", 1), ("c", 2)]]
    assert grouped(*three, apart=True) == [[("a", 0)], [("b", 1)], [("c", 2)]]


@pytest.mark.parametrize(
    "other",
    [
        {"parameters": {"x": "1", "y": "3"}},
        {"experiment": "v4/tiny/aa1"},
        {"evaluation": {"steps": 3, "sizes": "own"}},
        {"checkpoint": "final"},
        {"parameters": {}},
    ],
)
def test_another_setting_is_another_group(other: dict[str, Any]) -> None:
    assert grouped(result("a", 0), result("b", 1, **other)) == [[("a", 0)], [("b", 1)]]


def test_the_order_of_keys_is_no_setting() -> None:
    other = result("b", 1, {"y": "2", "x": "1"}, evaluation={"sizes": "own", "steps": 2})
    assert grouped(result("a", 0), other) == [[("a", 0), ("b", 1)]]


def test_results_without_parameters_are_groups_of_their_place() -> None:
    assert grouped(result("a", 0, {}), result("b", 1, {}), result("a", 2, {})) == [[("a", 0), ("a", 2)], [("b", 1)]]


def test_a_repeated_seed_of_another_place_is_a_group_of_its_own() -> None:
    given = [result("a", 0), result("a", 1), result("b", 0), result("c", 1)]
    assert grouped(*given) == [[("a", 0), ("a", 1)], [("b", 0)], [("c", 1)]]


def test_of_one_name_the_newest_counts_and_another_result_of_its_seed_is_told() -> None:
    newest, same, other = result("a", 0), result("a", 0), result("a", 0, tasks="u")
    groups, notes = group_seeds([newest, same, result("a", 1), other], False)
    assert [len(group) for group in groups] == [2]
    assert groups[0][0] is newest
    assert notes == ["a has several results of seed 0; the newest counts"]


def test_the_newest_counts_although_another_place_has_the_seed_too() -> None:
    place, newest, oldest = result("b", 0), result("a", 0), result("a", 0, tasks="u")
    for given in ([place, newest, oldest], [newest, oldest, place]):
        groups, notes = group_seeds(given, False)
        assert sorted((one.where, id(one)) for group in groups for one in group) == sorted(
            (one.where, id(one)) for one in (place, newest)
        )
        assert notes == ["a has several results of seed 0; the newest counts"]


def test_pools_are_no_seeds_of_each_other() -> None:
    def pooled(where: str, seed: int, *members: int) -> Result:
        one = result(where, seed)
        score = {**one.score, "pool": [{"seed": member} for member in members]}
        return Result(where, score, one.parameters, None, None, None)

    given = pooled("a", 0, 0, 1), pooled("b", 1, 1, 2), result("c", 2)
    assert grouped(*given) == [[("a", 0)], [("b", 1)], [("c", 2)]]


def test_a_pool_is_named_by_the_number_of_its_members() -> None:
    one = result()
    assert one.experiment == "v3/tiny/aa1"
    pooled = Result("a", {**one.score, "pool": [{}, {}, {}]}, {}, None, None, None)
    assert pooled.experiment == "v3/tiny/aa1 (pool of 3)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(four(tmp_path)[0])


@pytest.mark.parametrize(("contents", "what"), [("{size: smol}", "'dataset'"), ("[]", "expected sections, found '[]'")])
def test_what_lies_beside_a_score_must_be_an_experiment(folder: Path, contents: str, what: str) -> None:
    (folder / paths.EXPERIMENT).write_text(contents)
    with pytest.raises(StageError) as refused:
        results.find(str(folder), "best", "votes")
    says = str(refused.value)
    assert says.startswith(f"{folder / paths.EXPERIMENT} is no experiment (")
    assert says.endswith(f"{what}); run `dvc repro` in {folder}")


def test_a_score_elsewhere_says_the_cost_itself(folder: Path, tmp_path: Path) -> None:
    score = made_score(1)
    score["source"] |= {"evaluation": {}}
    sealed.write(tmp_path / "one.json", score | {"cost": {"seconds": 90.0, "device": "GPU"}})
    sealed.write(tmp_path / "two.json", score)
    [one], [two] = (results.find(f"{name}.json", "x", "y") for name in ("one", "two"))
    assert (one.seconds, one.device, one.parameters, one.where) == (90.0, "GPU", {}, "one.json")
    assert (two.seconds, two.device) == (None, None)
    shutil.copytree(folder / "data/scores", tmp_path / "data/scores")
    [bare] = results.find("data/scores/best-votes.json", "x", "y")
    assert bare.parameters == {}, "no experiment lies beside it"


def test_a_folder_without_the_score_says_what_it_has(folder: Path) -> None:
    file = folder / paths.score("best", "votes")
    file.rename(file.with_name("final-attempts.json"))
    shutil.copy(file.with_name("final-attempts.json"), file.with_name("best-attempts.json"))
    with pytest.raises(StageError) as refused:
        results.find(str(folder), "best", "votes")
    there = f"{folder} has best-attempts, final-attempts: choose with --checkpoint and --evaluation"
    assert str(refused.value) == f"{file} is missing; {there}"
    shutil.rmtree(file.parent)
    with pytest.raises(StageError, match=r"has no scores: run `dvc repro` there$"):
        results.find(str(folder), "best", "votes")


def test_parameters_that_change_no_score_are_left_out(folder: Path) -> None:
    path = folder / paths.EXPERIMENT
    values = yaml.safe_load(path.read_text())
    values["train"]["log_every"] = 3
    path.write_text(yaml.safe_dump(values))
    [best] = results.find(str(folder), "best", "votes")
    shown = best.parameters
    assert shown["checkpoint"] == "best"
    assert shown["select.steps"] == "2"
    assert shown["evaluation.steps"] == "2"
    assert shown["train.batch"] == "8"
    sections = ("evaluations.", "predict.", "report.", "publish.", "watch.", "train.validation.")
    assert not any(key.startswith(sections) for key in shown)
    named = {"title", "version", "size", "dataset", "seed", "train.log_every", "train.evaluate_candidates"}
    assert not named & set(shown)
    score = made_score(1)
    score["source"] |= {"evaluation": {}}
    final = results._relevant({"select.steps": "2", "train.batch": "8"}, score | {"checkpoint": "final"})
    assert final == {"train.batch": "8", "checkpoint": "final"}


class Broken(Exception):
    """MLflow's error."""


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A store that is made up; `runs` by what they are asked by, `texts` of score.json by run."""
    monkeypatch.chdir(tmp_path)
    runs: dict[str, list[Any]] = {}
    texts: dict[str, str] = {}
    made = SimpleNamespace(
        set_tracking_uri=lambda uri: None,
        MlflowClient=lambda: "client",
        artifacts=SimpleNamespace(load_text=lambda uri: texts[uri]),
    )
    monkeypatch.setitem(sys.modules, "mlflow", made)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace(MlflowException=Broken))
    monkeypatch.setattr(results, "configured_store", lambda: SimpleNamespace(empty=False, uri="sqlite:///x"))
    monkeypatch.setattr(results, "finished_runs", lambda client, wanted: iter(runs.get(wanted, ())))
    return SimpleNamespace(runs=runs, texts=texts)


def stored(mlflow: Any, key: str, seed: int, commit: str | None, dirty: str = "") -> None:
    tags = {"arc.key": key, "arc.experiment": "v3/tiny/aa1", "arc.device": "GPU"}
    tags |= {"mlflow.source.git.commit": commit} if commit else {}
    tags |= {"mlflow.source.git.dirty": dirty} if dirty else {}
    data = SimpleNamespace(tags=tags, params={"train.batch": "8"}, metrics={"cost/training_seconds": 60.0})
    parent = SimpleNamespace(data=data, info=SimpleNamespace(run_id=f"p{key}"))
    named = "tags.`arc.experiment` = 'v3/tiny/aa1' and tags.`arc.run` = 'experiment'"
    mlflow.runs.setdefault(named, []).append(parent)
    mlflow.runs.setdefault("tags.`arc.run` = 'experiment'", []).append(parent)
    tags = {"arc.checkpoint": "best", "arc.evaluation": "votes"}
    child = SimpleNamespace(data=SimpleNamespace(tags=tags), info=SimpleNamespace(run_id=f"c{key}"))
    mlflow.runs[f"tags.`mlflow.parentRunId` = 'p{key}'"] = [child]
    score = made_score(seed)
    score["source"] |= {"seed": seed, "evaluation": {}}
    path = Path(f"{key}.json")
    sealed.write(path, score)
    mlflow.texts[f"runs:/c{key}/score.json"] = path.read_text()


def test_results_of_a_name_are_in_the_order_of_their_seeds(mlflow: Any) -> None:
    stored(mlflow, "ab1", 2, "0123456789abcdef", "true")
    stored(mlflow, "ab2", 1, "fedcba9876543210", "false")
    stored(mlflow, "cd1", 0, None)
    found = results.find("v3/tiny/aa1", "best", "votes")
    assert [(one.seed, one.code, one.seconds, one.device) for one in found] == [
        (0, None, 60.0, "GPU"),
        (1, "fedcba987", 60.0, "GPU"),
        (2, "012345678+", 60.0, "GPU"),
    ]
    assert [one.seed for one in results.find("v3/tiny/aa1@ab", "best", "votes")] == [1, 2]


def test_a_score_in_the_store_that_was_edited_is_named(mlflow: Any) -> None:
    stored(mlflow, "ab1", 2, None)
    edited = mlflow.texts["runs:/cab1/score.json"].replace('"pass_at_2":', '"pass_at_2": 1, "old":')
    mlflow.texts["runs:/cab1/score.json"] = edited
    with pytest.raises(StageError, match=r"score\.json of MLflow's run cab1 .*; publish the experiment again$"):
        results.find("v3/tiny/aa1", "best", "votes")


def test_what_the_store_lacks_or_fails_at_is_named(mlflow: Any, monkeypatch: Any) -> None:
    with pytest.raises(
        StageError,
        match=r"^v3/tiny/aa1 is neither .* sqlite:///x; there are no experiments: `arc import` publishes the",
    ):
        results.find("v3/tiny/aa1", "best", "votes")
    stored(mlflow, "ab1", 2, None)
    with pytest.raises(StageError, match=r"^v3/tiny/aa1 has no final-votes in MLflow; it has best-votes$"):
        results.find("v3/tiny/aa1", "final", "votes")
    mlflow.runs["tags.`mlflow.parentRunId` = 'pab1'"] = []
    with pytest.raises(StageError, match=r"has no best-votes in MLflow; it has no evaluation$"):
        results.find("v3/tiny/aa1", "best", "votes")

    def broken(*_: Any) -> Any:
        raise Broken("no route")

    monkeypatch.setattr(results, "finished_runs", broken)
    with pytest.raises(StageError, match=r"^MLflow at sqlite:///x: no route$"):
        results.find("v3/tiny/aa1", "best", "votes")
    monkeypatch.setattr(results, "configured_store", lambda: SimpleNamespace(empty=True, uri="sqlite:///x"))
    with pytest.raises(StageError, match=r"^v3/tiny/aa1: no such file exists, and the .* sqlite:///x is empty"):
        results.find("v3/tiny/aa1", "best", "votes")


def test_finished_runs_are_read_page_by_page() -> None:
    asked: list[Any] = []

    class Page(list[str]):
        token: str | None = None

    def search(experiments: list[str], wanted: str, max_results: int, page_token: str | None) -> Page:
        asked.append((experiments, wanted, page_token))
        page = Page({None: "ab", "1": "c", "2": ""}[page_token])
        page.token = {None: "1", "1": "2", "2": None}[page_token]
        return page

    experiments = [SimpleNamespace(experiment_id="5"), SimpleNamespace(experiment_id="6")]
    client = SimpleNamespace(search_experiments=lambda: experiments, search_runs=search)
    assert list(results.finished_runs(client, "x")) == ["a", "b", "c"]
    assert asked == [(["5", "6"], "x and attributes.status = 'FINISHED'", token) for token in (None, "1", "2")]
