"""What `arc import` makes of a kept result and what it leaves out, with the scoring made up."""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks.commands import import_results
from tasks.common import params
from tasks.common.stage import StageError
from tasks.tracking import mlflow_runs, store
from tests.conftest import ROOT, experiment


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kept result whose predictions are empty files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "presets.yaml", tmp_path)
    place = tmp_path / "kept" / "one"
    place.mkdir(parents=True)
    (place / "experiment.yaml").write_text(yaml.safe_dump(experiment(dataset="aa1").model_dump(mode="json")))
    (place / "history.json").write_text('[{"step": 4, "loss": 2.0}]')
    selection = {"candidates": [], "on_the_reported_set": True, "criterion": "validation-loss"}
    (place / "selection.json").write_text(json.dumps(selection))
    for name in ("final-votes", "best-votes"):
        (place / f"{name}.parquet").write_text(name)

    def rescore(file: Path, values: Any) -> Any:
        number = 0.5 if file.stem == "best-votes" else 0.25
        source = {"leaks": 0, "evaluation": {"steps": 3}, "experiment": "e", "seed": 0, "step": 9, "weights": "ema"}
        measured = {"pass_at_2": number, "ci95": [0.0, 1.0], "grids_solved": 1, "n_grids": 2, "n_tasks": 2}
        return SimpleNamespace(data="d" * 64), measured | {"source": source}

    monkeypatch.setattr(import_results, "rescore", rescore)
    monkeypatch.setattr(import_results.signal, "signal", lambda *_: None)  # type: ignore[attr-defined]
    return place


def test_a_kept_result_is_one_training_with_its_scores_and_files(kept: Path, tmp_path: Path) -> None:
    (kept / "README.md").write_text("What it is.")
    (kept / "notes.txt").touch()
    cost = {"seconds": 90.0, "device": "H100", "commit": 1234567, "started": "2026-01-02T03:04:05"}
    (kept / "cost.json").write_text(json.dumps(cost))
    result = import_results.read(kept, tmp_path)
    training = result.training
    assert training.tags["arc.pass_at_2"].startswith("best-votes 50.0")
    assert (training.tags["mlflow.source.git.commit"], training.tags["arc.kept_in"]) == ("1234567", kept.as_posix())
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    assert training.times == (start, start + 90.0)
    assert training.tags["mlflow.note.content"].endswith(f"Imported from {kept.as_posix()}.\n\nWhat it is.")
    files = {"README.md", "cost.json", "experiment.yaml", "history.json", "selection.json"}
    assert set(training.artifacts) == files
    assert result.models == {}
    by_checkpoint = dict(result.evaluations)
    best, final = by_checkpoint["best"], by_checkpoint["final"]
    assert "selected on the reported set" in best.tags["arc.caveats"]
    assert final.tags["arc.caveats"] == ""
    assert set(best.artifacts) == {"score.json", "best-votes.parquet"}
    assert json.loads(best.artifacts["score.json"].read_text())["checkpoint"] == "best"
    assert result.data.digest == "d" * 12
    cost |= {"started": "2026-01-02T03:04:05+01:00"}
    (kept / "cost.json").write_text(json.dumps(cost))
    assert import_results.read(kept, tmp_path).training.times == (start - 3600, start - 3510)
    (kept / "cost.json").write_text(json.dumps({"started": "2026-01-02T03:04:05"}))
    (kept / "README.md").unlink()
    plain = import_results.read(kept, tmp_path).training
    assert (plain.times, "arc.device" in plain.tags, "mlflow.source.git.commit" in plain.tags) == (None, False, False)


def test_each_is_published_once_and_deleted_ones_are_left_out_if_asked(
    kept: Path, monkeypatch: Any, capsys: Any
) -> None:
    shutil.copytree(kept, kept.parent / "two")
    (kept.parent / "two" / "history.json").write_text("[]")
    keys = {import_results.content_key(kept): "one", import_results.content_key(kept.parent / "two"): "two"}
    done: list[str] = []
    monkeypatch.setattr(mlflow_runs, "ever_held", lambda _, key: keys[key] == "one")

    def publish(_: Any, key: str, read: Any) -> bool:
        done.append(keys[key])
        return bool(read()) and keys[key] == "two"

    monkeypatch.setattr(mlflow_runs, "publish", publish)
    import_results.main(kept.parent)
    assert done == ["one", "two"]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{kept} is in {store.configured_store().uri}"
    assert "two published to sqlite" in second
    import_results.main(kept.parent, new_only=True)
    assert done[2:] == ["two"]
    import_results.main(kept)
    assert done[3:] == ["one"]


def test_parameters_in_place_of_the_resolved_experiment_are_refused_with_the_section(
    kept: Path, tmp_path: Path
) -> None:
    file = kept / "experiment.yaml"
    file.write_text("version: v3\nsize: tiny\ndataset: aa1\nseed: 0\n")
    says = "section fetch is None; copy the resolved data/experiment.yaml of the experiment there"
    with pytest.raises(StageError, match=f"^{re.escape(str(file))}: {says}"):
        import_results.read(kept, tmp_path)


def test_settings_that_are_newer_than_a_result_have_todays_defaults(kept: Path) -> None:
    defaults = params.read(Path("presets.yaml"))["defaults"]["score"]
    values = {"score": {"rule": "other"}, "version": "v3", "size": "tiny", "dataset": "aa1"}
    assert import_results.filled("score", values) == {**defaults, "rule": "other"}
    Path("presets.yaml").unlink()
    assert import_results.filled("score", values) == {"rule": "other"}
    assert import_results.titled({"title": "own"}) == {"title": "own"}
