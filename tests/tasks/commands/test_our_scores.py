"""Our own scores, of an MLflow store that is made up and of kept results: which count, once, in which order."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks.commands import import_results, our_scores
from tasks.commands.our_scores import Ours
from tasks.common.stage import StageError
from tasks.comparison import results
from tasks.tracking import store


class Broken(Exception):
    """MLflow's error."""


def run(title: str | None = None, kept_in: str | None = None, **shares: float) -> Any:
    """A finished run of a training; the interval of a share is 0.01 below and 0.02 above it."""
    metrics = {"train/loss": 3.0}
    for pair, share in shares.items():
        name = pair.replace("_", "-")
        metrics |= {f"pass_at_2/{name}": share, f"pass_at_2_low/{name}": share - 0.01}
        metrics |= {f"pass_at_2_high/{name}": share + 0.02}
    tags = {"arc.experiment": "v3/smol/aa1", "arc.seed": "4"}
    tags |= {"arc.title": title} if title else {}
    tags |= {"arc.kept_in": kept_in} if kept_in else {}
    return SimpleNamespace(data=SimpleNamespace(tags=tags, metrics=metrics))


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The runs of the store, which a test fills; kept results lie in the folder `kept`."""
    runs: list[Any] = []
    asked: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "KEPT_RESULTS", Path("kept"))
    monkeypatch.setattr(store, "configured_store", lambda: SimpleNamespace(empty=False, uri="sqlite:///x"))
    mlflow = SimpleNamespace(set_tracking_uri=asked.append, MlflowClient=lambda: "client")
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", SimpleNamespace(MlflowException=Broken))

    def finished(client: str, wanted: str) -> Any:
        assert (client, wanted, asked) == ("client", "tags.`arc.run` = 'experiment'", ["sqlite:///x"])
        asked.clear()
        yield from runs

    monkeypatch.setattr(results, "finished_runs", finished)
    return runs


def keep(name: str, share: float, **values: Any) -> None:
    place = Path("kept") / name
    place.mkdir(parents=True)
    own = {"version": "v4", "size": "tiny", "dataset": "aa1", "seed": 2, "title": f"title of {name}", "share": share}
    (place / "experiment.yaml").write_text(yaml.safe_dump({key: {} for key in import_results.SECTIONS} | own | values))
    for pair in ("best-attempts", "final-votes"):
        (place / f"{pair}.parquet").write_text("")


@pytest.fixture(autouse=True)
def rescored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The predictions that were scored again; a kept result of ours says itself what its share is."""
    files: list[str] = []

    def rescore(file: Path, values: Any) -> Any:
        files.append(file.as_posix())
        return None, {"pass_at_2": values["share"], "ci95": [values["share"] - 0.1, values["share"] + 0.1]}

    monkeypatch.setattr(import_results, "rescore", rescore)
    return files


def test_one_score_stands_for_each_run_of_the_store(stored: list[Any]) -> None:
    stored += [run(final_votes=0.25, best_votes=0.125), run("own title", final_attempts=0.5), run(), run("t", a_b=0.3)]
    found = our_scores.find()
    assert [(o.title, o.pair, o.pass_at_2) for o in found] == [
        ("own title", "final-attempts", 0.5),
        ("t", "a-b", 0.3),
        ("v3/smol/aa1", "best-votes", 0.125),
    ]
    assert {(o.experiment, o.seed) for o in found} == {("v3/smol/aa1", "4")}
    assert found[2].ci95 == pytest.approx((0.115, 0.145))
    assert found[0].text == "own title seed 4: final-attempts 50.0 [49.0–52.0]"


def test_a_kept_result_counts_once(stored: list[Any], rescored: list[str]) -> None:
    keep("a", 0.2)
    keep("b", 0.4)
    stored.append(run("published", "kept/b", best_votes=0.3))
    assert [(o.title, o.pass_at_2) for o in our_scores.find()] == [("published", 0.3), ("title of a", 0.2)]
    assert rescored == ["kept/a/final-votes.parquet"]
    [_, kept] = our_scores.find()
    assert kept == Ours("v4/tiny/aa1", "title of a", "2", "final-votes", 0.2, kept.ci95)
    assert kept.ci95 == pytest.approx((0.1, 0.3))
    assert list(our_scores.kept()) == ["b", "a"]
    assert our_scores.kept()["b"].pass_at_2 == 0.4


def test_of_one_version_nothing_else_is_scored_again(stored: list[Any], rescored: list[str]) -> None:
    keep("a", 0.2)
    keep("b", 0.4, version="v3", finetuning="lora", budget="3min")
    stored.append(run("published", best_votes=0.3))
    assert [(o.title, o.version) for o in our_scores.find("v3")] == [("title of b", "v3"), ("published", "v3")]
    assert rescored == ["kept/b/final-votes.parquet"]
    assert [o.title for o in our_scores.find("v4")] == ["title of a"]
    assert our_scores.find("v5") == []


@pytest.mark.parametrize(
    ("values", "name"),
    [({"finetuning": "lora"}, "v4+lora/tiny/aa1"), ({"budget": "3min"}, "v4/tiny+3min/aa1"), ({}, "v4/tiny/aa1")],
)
def test_older_results_have_the_plain_layers(stored: list[Any], values: Any, name: str) -> None:
    keep("a", 0.2, **values)
    assert [o.experiment for o in our_scores.find()] == [name]


def test_without_a_store_or_kept_results_there_are_none(stored: list[Any], monkeypatch: Any) -> None:
    stored.append(run(best_votes=0.3))
    monkeypatch.setattr(store, "configured_store", lambda: SimpleNamespace(empty=True, uri="x"))
    assert our_scores.find() == []
    assert our_scores.kept() == {}
    keep("a", 0.2)
    assert [o.title for o in our_scores.find()] == ["title of a"]


def test_an_error_of_mlflow_names_the_store(stored: list[Any], monkeypatch: Any) -> None:
    def broken(*_: Any) -> Any:
        raise Broken("no route")

    monkeypatch.setattr(results, "finished_runs", broken)
    with pytest.raises(StageError, match=r"^MLflow at sqlite:///x: no route$"):
        our_scores.find()
