"""Kept results, published to a fresh store: complete, with the published scores, and once."""

import json
import shutil
from pathlib import Path

import pytest

from tasks.commands import import_results
from tasks.common import params
from tasks.common.stage import StageError
from tasks.tracking import store
from tests.conftest import ROOT
from tests.support.published_experiment import client, row_counts, runs

KEPT = ROOT / "docs" / "baselines"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one kept result that has two small files of predictions, in an empty repository root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / "kept" / "v3-muon-smol-aa1"
    shutil.copytree(KEPT / "v3-muon-smol-aa1", place, ignore=shutil.ignore_patterns("*-votes.parquet", "best-*"))
    shutil.copy(ROOT / "presets.yaml", tmp_path)
    return place


def test_the_scores_are_those_of_the_stage_and_the_published_ones(kept):
    values = params.read(kept / "experiment.yaml")
    source, score = import_results.rescore(kept / "final-attempts.parquet", values)
    assert (source.step, score["grids_solved"], score["n_tasks"]) == (34000, 48, 400)
    assert score["pass_at_2"] == pytest.approx(0.11125)


def test_predictions_for_other_tasks_are_refused(kept):
    values = params.read(kept / "experiment.yaml")
    values["fetch"]["edition"] = "arcagi2"
    with pytest.raises(StageError, match=r"final-attempts.parquet answers \d+ tasks that"):
        import_results.rescore(kept / "final-attempts.parquet", values)


def test_the_key_is_of_the_measurements_and_not_of_their_description(kept):
    before = import_results.content_key(kept)
    (kept / "README.md").write_text("another description")
    (kept / "experiment.yaml").write_text((kept / "experiment.yaml").read_text() + "\n")
    assert import_results.content_key(kept) == before
    (kept / "history.json").write_text("[]")
    assert import_results.content_key(kept) != before


def test_a_folder_that_holds_no_result_is_refused_with_what_is_missing(kept, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="holds no kept result"):
        import_results.kept_results(tmp_path / "empty")
    (kept / "selection.json").unlink()
    with pytest.raises(StageError, match=r"v3-muon-smol-aa1 is incomplete: no selection\.json"):
        import_results.content_key(kept)


@pytest.mark.slow
def test_a_kept_result_becomes_complete_runs_once(kept, tmp_path):
    store.create(store.configured_store())
    import_results.main(kept.parent)
    where = client()
    (parent,) = runs(where, "tags.`arc.run` = 'experiment'")
    shown = "v3/smol/aa1 +ema +muon lr=1e-3 dropout=0 ...6 more"
    assert (parent.info.run_name, parent.info.status) == (f"{shown} seed 0", "FINISHED")
    assert (parent.data.tags["arc.title"], parent.data.tags["arc.experiment"]) == (shown, "v3/smol/aa1")
    assert parent.data.params["train.optimizer_steps"] == "34000"
    assert parent.data.metrics["pass_at_2/final-attempts"] == pytest.approx(0.11125)
    assert parent.data.metrics["pass_at_2_low/final-attempts"] < 0.11125
    assert parent.data.metrics["cost/training_minutes"] == 7.38  # 443 s
    assert parent.data.tags["mlflow.source.git.commit"].startswith("3686994")
    assert parent.data.tags["arc.pass_at_2"] == "final-attempts 11.1 [8.2–14.2]"
    history = json.loads((kept / "history.json").read_text())
    assert len(where.get_metric_history(parent.info.run_id, "train/loss")) == len(history)

    children = {run.data.tags["arc.checkpoint"]: run for run in runs(where, "tags.`arc.run` = 'evaluation'")}
    assert {name: run.data.metrics["grids_solved"] for name, run in children.items()} == {"halfway": 54, "final": 48}
    for name, run in children.items():
        file = f"{name}-attempts.parquet"
        assert Path(where.download_artifacts(run.info.run_id, file)).read_bytes() == (kept / file).read_bytes()

    counts = row_counts(tmp_path)
    import_results.main(kept.parent)
    assert row_counts(tmp_path) == counts

    where.delete_run(parent.info.run_id)
    import_results.main(kept.parent, new_only=True)
    assert not runs(where, "tags.`arc.run` = 'experiment'"), "what a user deleted stays deleted"
    import_results.main(kept.parent)
    assert len(runs(where, "tags.`arc.run` = 'experiment'")) == 1
