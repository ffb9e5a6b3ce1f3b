"""publish against a real MLflow store, read back with its own client: whole, once, and honest about what was killed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import publish
from tasks.common import paths
from tests.support.published_experiment import (
    NAME,
    PAIRS,
    assert_whole,
    client,
    leaves,
    models,
    row_counts,
    run_publish,
    runs,
    sha,
)


@pytest.mark.slow
def test_the_run_of_the_training_holds_parameters_curves_models_and_files(repository):
    publish.main()
    where = client()
    (parent,) = runs(where, "tags.`arc.run` = 'experiment'")
    run = parent.info.run_id
    assert (parent.info.run_name, parent.info.status) == (NAME, "FINISHED")

    given = dict(leaves(yaml.safe_load(paths.EXPERIMENT.read_text())))
    assert set(parent.data.params) == set(given)
    assert all(yaml.safe_load(parent.data.params[k]) == v for k, v in given.items() if not isinstance(v, str | float))
    assert parent.data.params["train.network.width"] == "32"
    assert float(parent.data.params["train.optimizer.learning_rate"]) == 2e-3

    history, candidates = json.loads(paths.HISTORY.read_text()), json.loads(paths.SELECTION.read_text())["candidates"]
    looks = [
        {"step": row["step"]}
        | {k.removeprefix("validation_"): v for k, v in row.items() if k.startswith("validation_")}
        for row in history
        if "validation_loss" in row
    ]
    assert looks
    trained = [{k: v for k, v in row.items() if not k.startswith("validation_")} for row in history]
    for prefix, rows in (("train", trained), ("validation", candidates), ("validation", looks)):
        curves = [k for k, v in rows[0].items() if isinstance(v, float) and k != "step"]
        assert len(curves) > 5
        for name in curves:
            points = where.get_metric_history(run, f"{prefix}/{name}")
            assert sorted((p.step, p.value) for p in points) == sorted((int(r["step"]), r[name]) for r in rows)
    assert not any("validation_" in name for name in parent.data.metrics)

    steps = {
        name: json.loads((paths.CHECKPOINTS / f"{name}.json").read_text())["step"] for name in publish.ALWAYS_PUBLISHED
    }
    by_name = {model.tags["arc.checkpoint"]: model for model in models(where)}
    assert set(by_name) == set(steps)
    for name, model in by_name.items():
        stem = paths.CHECKPOINTS / name
        assert model.tags["arc.digest"] == sha(stem.with_suffix(".safetensors"), stem.with_suffix(".json"))
        assert (model.status.name, model.source_run_id, model.params["step"]) == ("READY", run, str(steps[name]))
    outputs = where.get_run(run).outputs.model_outputs
    assert {(o.model_id, o.step) for o in outputs} == {(by_name[n].model_id, s) for n, s in steps.items()}

    files = (paths.PAGE, paths.EXPERIMENT, paths.HISTORY, paths.PROBES, paths.SELECTION, paths.LEAKS)
    assert {a.path for a in where.list_artifacts(run)} == {file.name for file in files}
    for file in files:
        assert Path(where.download_artifacts(run, file.name)).read_bytes() == file.read_bytes()
    (data,) = where.get_run(run).inputs.dataset_inputs
    assert data.dataset.name == "aa1-6x6"
    assert sha(paths.CELLS, paths.PAIRS, paths.TASKS).startswith(data.dataset.digest)
    for pair in PAIRS:
        given = json.loads((paths.SCORES / f"{pair}.json").read_text())
        assert parent.data.metrics[f"pass_at_2/{pair}"] == given["pass_at_2"]
    probed = json.loads(paths.PROBES.read_text())["self_conditioning"]
    assert {f"probe/self_conditioning/{name}": value for name, value in probed.items()} == {
        name: value for name, value in parent.data.metrics.items() if name.startswith("probe/")
    }
    assert parent.data.metrics["cost/training_seconds"] > 0
    assert parent.data.tags["arc.device"] == "cpu"
    assert parent.data.tags["arc.leaks"] == "0"
    assert parent.data.tags["arc.selected_on_the_reported_set"] == "false"
    assert "best-votes" in parent.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_every_evaluation_is_a_run_linked_to_its_model(repository):
    publish.main()
    where = client()
    by_name = {model.tags["arc.checkpoint"]: model.model_id for model in models(where)}
    for pair in PAIRS:
        checkpoint, name = pair.split("-")
        (run,) = runs(where, f"tags.`arc.checkpoint` = '{checkpoint}' and tags.`arc.evaluation` = '{name}'")
        given = json.loads((paths.SCORES / f"{pair}.json").read_text())
        same = {k: v for k, v in given.items() if type(v) in (int, float)}
        assert {"pass_at_1", "pass_at_2", "strict", "oracle", "sizes_correct", "grids_solved", "n_tasks"} <= set(same)
        assert {k: run.data.metrics[k] for k in same} == same
        assert [run.data.metrics["ci95_low"], run.data.metrics["ci95_high"]] == given["ci95"]
        assert run.data.metrics["missing"] == 0
        assert run.data.params["evaluation.steps"] == str(given["source"]["evaluation"]["steps"])
        (used,) = where.get_run(run.info.run_id).inputs.model_inputs
        assert used.model_id == by_name[checkpoint]
        measured = where.get_logged_model(by_name[checkpoint]).metrics
        values = [m.value for m in measured if m.run_id == run.info.run_id and m.key == "pass_at_2"]
        assert values == [given["pass_at_2"]]
        for file, source in (("score.json", paths.score), ("submission.json", paths.submission)):
            got = Path(where.download_artifacts(run.info.run_id, file)).read_bytes()
            assert got == source(checkpoint, name).read_bytes()


@pytest.mark.slow
def test_publishing_again_adds_nothing_and_writes_the_same_file(repository):
    publish.main()
    first = paths.PUBLISHED.read_bytes()
    counts = row_counts(repository)
    publish.main()
    paths.PAGE.write_text("another layout of the same result")
    publish.main()
    assert row_counts(repository) == counts
    assert paths.PUBLISHED.read_bytes() == first
    assert set(json.loads(first)) == {"key", "experiment", "runs"}
    assert_whole(client())


@pytest.mark.slow
def test_another_result_is_another_run(repository):
    publish.main()
    history = json.loads(paths.HISTORY.read_text())
    paths.HISTORY.write_text(json.dumps(history[:-1]))
    publish.main()
    parents = runs(client(), "tags.`arc.run` = 'experiment'")
    assert len({run.data.tags["arc.key"] for run in parents}) == len(parents) == 2
    lengths = [len(client().get_metric_history(run.info.run_id, "train/loss")) for run in parents]
    assert sorted(lengths) == [len(history) - 1, len(history)]


@pytest.mark.slow
def test_the_store_and_its_artifacts_are_where_the_variable_says(repository, tmp_path, monkeypatch):
    (tmp_path / "else where").mkdir()
    uri = f"sqlite:///{tmp_path / 'else where' / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    publish.main()
    assert_whole(client(uri))
    assert not runs(client())
    stored = [Path(run.info.artifact_uri) for run in runs(client(uri))]
    assert all(path.is_relative_to(tmp_path / "else where" / "mlartifacts") for path in stored)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    publish.main()
    assert_whole(client())


@pytest.mark.slow
def test_if_missing_writes_to_a_store_only_if_it_lacks_the_result(repository):
    publish.main()
    paths.PUBLISHED.unlink()
    counts = row_counts(repository)
    again = run_publish("--if-missing", before="import atexit; atexit.register(lambda: print(*sys.modules))")
    assert again.returncode == 0, again.stderr
    assert "torch" not in again.stdout.split()
    assert row_counts(repository) == counts
    for file in repository.glob("mlflow.db*"):
        file.unlink()
    assert run_publish("--if-missing").returncode == 0
    assert_whole(client())
    assert not paths.PUBLISHED.exists()


@pytest.mark.slow
def test_an_error_leaves_a_failed_run_and_the_next_attempt_a_whole_one(repository, monkeypatch):
    import mlflow

    def full(*_: Any) -> None:
        raise mlflow.MlflowException("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_outputs", full)
        with pytest.raises(SystemExit, match=r"publish: MLflow at sqlite:.*no space left on device"):
            publish.main()
    assert [run.info.status for run in runs(client())] == ["FAILED"]
    assert not paths.PUBLISHED.exists()
    publish.main()
    assert_whole(client())


@pytest.mark.slow
def test_no_point_of_a_long_curve_is_lost(repository):
    """MLflow takes at most 1,000 points in one call."""
    row = json.loads(paths.HISTORY.read_text())[-1]
    history = [{**row, "step": float(step), "loss": step / 7} for step in range(1, 301)]
    paths.HISTORY.write_text(json.dumps(history))
    publish.main()
    (parent,) = runs(client(), "tags.`arc.run` = 'experiment'")
    curves = [name for name in parent.data.metrics if name.startswith("train/")]
    assert len(curves) * len(history) > 3000
    for name in curves:
        points = sorted(client().get_metric_history(parent.info.run_id, name), key=lambda point: point.step)
        assert [point.step for point in points] == list(range(1, 301)), name
        if name == "train/loss":
            assert [point.value for point in points] == [pytest.approx(step / 7) for step in range(1, 301)]
