"""The checkpoint that is kept with the best result: a model of MLflow, whose answers are those that were counted."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from model.storage.checkpoints import CheckpointError, describe
from tasks.commands import import_results
from tasks.common import params
from tasks.common.stage import StageError
from tasks.files import predictions
from tasks.sources.arckit_tasks import from_arckit
from tasks.tracking import store
from tests.conftest import ROOT
from tests.support.published_experiment import client

BEST = ROOT / "docs/baselines/growth-mediom-deep-35min"
TASK = "66e6c45b"
"""Of 4 x 4 cells, and one test input."""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "presets.yaml", tmp_path)
    place = tmp_path / "kept" / BEST.name
    shutil.copytree(BEST, place, ignore=shutil.ignore_patterns("*-measured.parquet"))
    return place


def test_the_best_weights_belong_to_their_result_and_fit_60_mb(kept: Path, tmp_path: Path) -> None:
    [(name, model)] = import_results.read(kept, tmp_path).models.items()
    assert (name, model.step, model.registered) == ("final", 48_000, "arc-diffusion-aa1")
    assert (model.tags["arc.checkpoint"], model.tags["arc.evaluation"]) == ("final", "votes")
    assert model.files["weights"].stat().st_size < 60e6
    [example] = model.example["tasks"]
    assert example in describe(kept / "final").tasks
    assert model.example["tasks"][example] == from_arckit("arcagi")["evaluation", "challenges"][example]


def test_a_checkpoint_of_another_result_or_a_damaged_one_is_refused(kept: Path, tmp_path: Path) -> None:
    selection = json.loads((kept / "selection.json").read_text())
    (kept / "selection.json").write_text(json.dumps(selection | {"final": 36_000}))
    with pytest.raises(StageError, match=r"final is of \('v8/mediom-deep\+20min/aa1', 0, 48000\), but the result in"):
        import_results.read(kept, tmp_path)
    (kept / "selection.json").write_text(json.dumps(selection))
    (kept / "final.safetensors").write_bytes((BEST / "final.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"final\.safetensors is damaged"):
        import_results.read(kept, tmp_path)


@pytest.mark.slow
def test_the_model_answers_as_the_kept_predictions_say(kept: Path) -> None:
    store.create(store.configured_store())
    import_results.main(kept.parent)
    where = client()
    version = where.get_model_version_by_alias("arc-diffusion-aa1", "best")
    assert version.tags["arc.checkpoint"] == "final"

    import mlflow

    mlflow.set_tracking_uri(store.configured_store().uri)
    model = mlflow.pyfunc.load_model("models:/arc-diffusion-aa1@best")
    challenge = from_arckit("arcagi")["evaluation", "challenges"][TASK]
    answer = model.predict({"tasks": {TASK: challenge}}).iloc[0]
    frame, source = predictions.read(kept / "final-votes.parquet")
    counted = Counter(json.dumps(grid.tolist()) for grid in frame[frame.task == TASK].grid)
    [first, *_] = counted.most_common()
    assert source.evaluation.views == answer.proposals == counted.total() == 128
    # In bfloat16 on a GPU then, in single precision on a CPU now.
    assert json.dumps(answer.attempt_1) == first[0]
    assert answer.votes_1 == pytest.approx(first[1], abs=6)
    assert [answer.attempt_1] == from_arckit("arcagi")["evaluation", "solutions"][TASK]
    assert params.read(kept / "experiment.yaml")["evaluations"]["votes"]["sizes"] == "rule"
