"""Scores that lie in files, in folders and in an MLflow store compare alike; what is none is refused."""

import shutil

import pytest
import yaml

from model.storage import sealed
from tasks.common import paths
from tasks.common.params import flatten
from tasks.common.stage import StageError
from tasks.comparison import results
from tasks.comparison.comparison import compare
from tasks.files import cost
from tasks.tracking import mlflow_runs
from tasks.tracking.store import configured_store
from tests.conftest import experiment
from tests.support.random_scores import folder, four, made_score, values_of
from tests.support.stored import made_store  # noqa: F401


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return four(tmp_path)


def test_a_score_file_alone_compares_without_factors(folders, tmp_path):
    path = tmp_path / "best-votes.json"
    path.write_text((tmp_path / "b0" / paths.score("best", "votes")).read_text())
    found = compare([folders[0], str(path)], resamples=200)
    assert found.pairs[0].factors is None
    inside = compare([folders[0], str(tmp_path / "b0" / paths.score("best", "votes"))], resamples=200)
    assert inside.pairs[0].factors == (("train.optimizer.learning_rate", "0.002", "0.001"),)
    assert inside.pairs[0][2:6] == found.pairs[0][2:6]


def test_the_cost_is_that_of_the_folders_own_training(folders, tmp_path, monkeypatch):
    """The timing lies in scratch under a key of the tables; a folder without either costs '?'."""
    root = tmp_path / "a0"
    (root / paths.PREPARED).mkdir()
    (root / paths.AUGMENTED).mkdir()
    for table in (paths.CELLS, paths.PAIRS, paths.TASKS, paths.TRAINING_VIEWS, paths.VALIDATION_SOLUTIONS):
        (root / table).write_text("x")
    monkeypatch.chdir(root)
    cost.add(experiment(dataset="aa1"), 90.0, "H200")
    monkeypatch.chdir(tmp_path)
    rows = compare(folders[:2], resamples=200).rows
    assert (rows[0].minutes, rows[0].device) == (1.5, "H200")
    assert (rows[1].minutes, rows[1].device) == (None, "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_text("{"), "broken JSON"),
        (lambda path: path.write_text("[]"), "cannot be used: it is no JSON object"),
        (lambda path: path.write_text('{"tasks": {}}'), "cannot be used: it has no digest"),
        (lambda path: path.write_text(path.read_text().replace("true", "false", 1)), "damaged or was edited"),
        (lambda path: sealed.write(path, {"tasks": {}}), "is no score: it lacks"),
        (lambda path: path.unlink(), "is missing; .* has no scores"),
    ],
)
def test_a_score_that_is_none(folders, change, says, tmp_path):
    change(tmp_path / "b0" / paths.score("best", "votes"))
    with pytest.raises(StageError, match=says):
        compare(folders[:2])


def test_a_score_of_another_experiment_than_lies_beside_it(folders, tmp_path):
    path = tmp_path / "b0" / paths.EXPERIMENT
    path.write_text(yaml.safe_dump(experiment(dataset="aa1", seed=9).model_dump(mode="json")))
    with pytest.raises(StageError, match=r"is of v3/tiny/aa1 seed 0, but .* is of v3/tiny/aa1 seed 9"):
        compare(folders[:2])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"size": "smol", "budget": "3min"}, "v8/smol+3min/aa1"),
        ({"finetuning": "lora", "size": "smol"}, "v8+lora/smol/aa1"),
    ],
)
def test_a_folder_with_a_budget_or_finetuning(folders, tmp_path, changes, name):
    place = folder(tmp_path / "more", made_score(5), version="v8", **changes)
    [found] = results.find(place, "best", "votes")
    assert found.experiment == name
    assert not {"finetuning", "budget", "size"} & set(found.parameters)
    with pytest.raises(StageError, match=r"no such file exists, and the MLflow store .* is empty"):
        results.find(name, "best", "votes")


def test_a_kept_result_is_compared_by_its_name_in_mlflow(folders, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "a0" / paths.EXPERIMENT).rename(kept / "experiment.yaml")
    with pytest.raises(StageError, match=r"kept is a kept result, without scores: run `arc import .*kept` and give"):
        results.find(str(kept), "best", "votes")


def test_a_folder_of_an_older_commit_still_compares(folders, tmp_path):
    """Its parameters lack what has been added since; that is a factor."""
    path = tmp_path / "b0" / paths.EXPERIMENT
    values = yaml.safe_load(path.read_text())
    del values["train"]["optimizer"]["name"]
    path.write_text(yaml.safe_dump(values))
    factors = compare(folders[:2], resamples=200).pairs[0].factors
    assert factors == (("train.optimizer.learning_rate", "0.002", "0.001"), ("train.optimizer.name", "adamw", "-"))


def test_a_name_that_is_nothing(folders):
    with pytest.raises(StageError, match="is no score file, no folder and no experiment"):
        compare([folders[0], "nothing"])
    with pytest.raises(StageError, match=r"the MLflow store .* is empty"):
        compare([folders[0], "v9/smol/aa1"])


def _publish(tmp_path, score, key, **changes):
    """What tasks.publish puts there of it, by the same writer: the run of a training, and one of an evaluation."""
    config = experiment(dataset="aa1", **changes)
    score["source"] |= {
        "experiment": config.name,
        "seed": config.seed,
        "evaluation": config.evaluations["votes"].model_dump(mode="json"),
    }
    file = tmp_path / f"{key}.json"
    sealed.write(file, score)
    tags = {"arc.experiment": config.name, "arc.seed": str(config.seed)}
    tags |= {"mlflow.source.git.commit": "0123456789abcdef" if config.seed else "fedcba9876543210"}
    parameters = flatten(config.model_dump(mode="json"))
    points = [mlflow_runs.Point("cost/training_seconds", 120.0, 12)]
    training = mlflow_runs.Record(config.name, tags | {"arc.device": "H200"}, parameters, points, {})
    named = tags | {"arc.checkpoint": "best", "arc.evaluation": "votes"}
    evaluation = mlflow_runs.Record(f"{config.name} best-votes", named, {}, [], {"score.json": file})
    data = mlflow_runs.Data("aa1", "0" * 32, "{}", "{}")
    result = mlflow_runs.Result("arc-diffusion", training, {}, [("best", evaluation)], data)
    assert mlflow_runs.publish(configured_store(), key, lambda: result)


@pytest.mark.slow
def test_names_in_mlflow(folders, tmp_path):
    _publish(tmp_path, made_score(1), "aaa0")
    _publish(tmp_path, made_score(3), "aaa1", seed=1)
    _publish(tmp_path, made_score(2, 0.25), "bbb0", train={"optimizer": {"learning_rate": 1e-3}}, size="smol")
    _publish(tmp_path, made_score(4, 0.25), "bbb1", train={"optimizer": {"learning_rate": 1e-3}}, size="smol", seed=1)
    found = compare(["v3/tiny/aa1", "v3/smol/aa1"], resamples=2000)
    assert [(row.label, row.seeds) for row in found.rows] == [("v3/tiny/aa1", (0, 1)), ("v3/smol/aa1", (0, 1))]
    of_folders = compare(folders, resamples=2000)
    assert [row[4:15] for row in found.rows] == [row[4:15] for row in of_folders.rows]
    assert found.pairs[0][2:8] == of_folders.pairs[0][2:8]
    assert (found.rows[0].minutes, found.rows[0].device) == (4.0, "H200")
    assert ("train.optimizer.learning_rate", "0.002", "0.001") in (found.pairs[0].factors or ())
    # A worktree against a name; one result of a name by its key.
    mixed = compare([folders[0], "v3/smol/aa1@bbb1"], resamples=200)
    assert [row.seeds for row in mixed.rows] == [(0,), (1,)]

    # Another setting under the same name is another experiment; the same seed again counts once, the newest.
    _publish(tmp_path, made_score(10), "ccc0", train={"batch": 4})
    several = compare(["v3/tiny/aa1"], resamples=200)
    assert sorted(row.seeds for row in several.rows) == [(0,), (0, 1)]
    assert {row.label for row in several.rows} == {"v3/tiny/aa1", "v3/tiny/aa1 (batch=8)"}
    _publish(tmp_path, made_score(11), "ddd0", train={"batch": 4})
    again = compare(["v3/tiny/aa1"], resamples=200)
    assert again.notes[0] == "v3/tiny/aa1 has several results of seed 0; the newest counts"
    newest = next(row for row in again.rows if len(row.seeds) == 1)
    assert newest.pass_at_2 == pytest.approx(values_of(made_score(11)).mean())

    with pytest.raises(
        StageError, match=r"v9/tiny/aa1 is neither a path nor in .*; there are v3/smol/aa1, v3/tiny/aa1"
    ):
        compare(["v9/tiny/aa1"])
    with pytest.raises(StageError, match="has no final-votes in MLflow; it has best-votes"):
        compare(["v3/smol/aa1"], checkpoint="final")


def test_one_result_of_a_name_is_read_with_its_parameters_cost_and_code(folders, made_store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(made_store, tmp_path / "mlflow.db")
    _publish(tmp_path, made_score(3), "bbb1", seed=1)
    _publish(tmp_path, made_score(1), "aaa0", train={"optimizer": {"learning_rate": 1e-3}})
    first, second = results.find("v3/tiny/aa1", "best", "votes")
    assert [(r.seed, r.code, r.seconds, r.device) for r in (first, second)] == [
        (0, "fedcba987", 120.0, "H200"),
        (1, "012345678", 120.0, "H200"),
    ]
    assert first.parameters["train.optimizer.learning_rate"] == "0.001"
    assert first.parameters["checkpoint"] == "best"
    assert first.parameters["evaluation.steps"] == second.parameters["evaluation.steps"] == "2"
    assert not any(key.startswith(("evaluations.", "report.")) for key in first.parameters)
    assert first.score["tasks"] == made_score(1)["tasks"]
    [only] = results.find("v3/tiny/aa1@bb", "best", "votes")
    assert only.seed == 1
    with pytest.raises(StageError, match=r"v9/tiny/aa1 is neither a path nor in .*; there are v3/tiny/aa1$"):
        results.find("v9/tiny/aa1", "best", "votes")
    with pytest.raises(StageError, match="has no final-votes in MLflow; it has best-votes"):
        results.find("v3/tiny/aa1", "final", "votes")
