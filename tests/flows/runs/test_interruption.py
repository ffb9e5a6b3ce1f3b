"""Interrupted runs and their continuation in a real MLflow store."""

from typing import Any

import pytest
import yaml

from flows.runs import interruption
from tasks.common import paths
from tasks.tracking import mlflow_runs, store
from tests.conftest import experiment


@pytest.mark.slow
def test_a_continuation_is_connected_with_the_interrupted_runs_of_its_parameters_only(workspace, monkeypatch) -> None:
    for name in ("ARC_HOME", "ARC_SCRATCH", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARC_SCRATCH", str(workspace / "scratch"))
    monkeypatch.setenv("ARC_HOME", str(workspace))
    interruption.write("first", "KILLED", "cancelled")
    interruption.write("second", "FAILED", "the disk is full")
    same = paths.EXPERIMENT.read_text()
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment(seed=1).model_dump(mode="json")))
    interruption.write("other", "KILLED", "cancelled")
    paths.EXPERIMENT.write_text(same)
    place = store.configured_store()
    client = mlflow_runs.connect(place)
    number = mlflow_runs.experiment_id(client, place, experiment().publish.experiment)
    published = client.create_run(number, run_name="published").info.run_id
    runs: dict[Any, Any] = {run.data.tags.get("arc.flow_run"): run for run in client.search_runs([number])}
    assert set(interruption.connect(published)) == {runs["first"].info.run_id, runs["second"].info.run_id}
    tags = {name: client.get_run(run.info.run_id).data.tags for name, run in runs.items()}
    assert {tags[name].get("arc.continued_by") for name in ("first", "second")} == {published}
    assert "arc.continued_by" not in tags["other"]
    assert set(tags[None]["arc.continues"].split()) == {runs[name].info.run_id for name in ("first", "second")}
