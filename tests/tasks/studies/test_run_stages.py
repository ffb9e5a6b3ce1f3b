"""Whole experiments by the stages alone: what is kept, what is not done again, and what an interruption loses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from model.storage import checkpoints
from tasks.commands import import_results
from tasks.common import params, paths
from tasks.common.presets import ConfigurationError, merge, parse_name
from tasks.files import predictions
from tasks.studies import run_stages
from tasks.studies.study_file import read_study
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.slow


NAME = "v3-tiny-aa1-6x6"


def command(folder: Path, *names: str, final_only: tuple[str, ...] = (), **changes: object) -> "subprocess.Popen[str]":
    common = {key: value for key, value in merge(SMALL, changes).items() if key not in ("version", "size", "dataset")}
    folder.mkdir(exist_ok=True)
    experiments = {name: {} for name in names or ["v3/tiny/aa1-6x6"]}
    study = {"common": common, "final_only": list(final_only), "experiments": experiments}
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "ARC_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "ARC_SAVE_SECONDS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.studies.run_stages", "study.yaml", "--commit", "abc1234", "--weights"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def times(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in sorted(folder.glob(".scratch/run_stages/*/.done/*"))}


def test_what_is_kept_can_be_imported_and_nothing_is_done_twice(tmp_path):
    finished(command(tmp_path, final_only=("attempts",)))
    done = times(tmp_path)
    assert {Path(name).name for name in done} >= {"fetch", "train", "select"}
    kept = tmp_path / "kept" / NAME
    cost = json.loads((kept / "cost.json").read_text())
    assert cost["commit"] == "abc1234"
    assert 0 < cost["seconds"] < cost["stages"]["train"]
    result = import_results.read(kept, tmp_path)
    published = {record.name.split(" ")[-1] for _, record in result.evaluations}
    assert published == {"final-attempts", "best-votes", "halfway-votes", "final-votes"}
    (made,) = tmp_path.glob(".scratch/run_stages/*/data/predictions")
    whole, described = checkpoints.load(made.parent / "checkpoints" / "final", torch.device("cpu"))
    small, again = checkpoints.load(kept / "final", torch.device("cpu"))
    assert described == again
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1 / 256, atol=0)
    for file in made.iterdir():
        first, second = predictions.read(file), predictions.read(kept / file.name)
        assert first[1] == second[1]
        answers = [name for name in predictions.SCHEMA.names if name not in predictions.ALONG_THE_DENOISING]
        pd.testing.assert_frame_equal(first[0][answers], second[0][answers])
        assert first[0]["frames"].notna().any()
        assert second[0]["frames"].notna().any() == (file.name == "final-votes.parquet")
    finished(command(tmp_path, final_only=("attempts",)))
    assert times(tmp_path) == done


@pytest.mark.night
def test_all_predictions_of_one_process_are_those_of_the_stage(tmp_path):
    """And a checkpoint that is the same as another has the same."""
    finished(command(tmp_path, predict={"checkpoints": ["best", "final"]}))
    (place,) = tmp_path.glob(".scratch/run_stages/*")
    files = {file.name: file.read_bytes() for file in (place / "data/predictions").iterdir()}
    assert len(files) == 4
    shutil.rmtree(place / "data/predictions")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ARC_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    for name, content in files.items():
        pair = Path(name).stem.split("-", 1)
        subprocess.run([sys.executable, "-m", "tasks.predict", *pair], cwd=place, env=environment, check=True)
        assert (place / "data/predictions" / name).read_bytes() == content


def test_an_interrupted_training_resumes_and_ends_with_the_same_history(tmp_path):
    longer = {
        "train": {"optimizer_steps": 300, "log_every": 20},
        "predict": {"checkpoints": ["best"]},
    }
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = command(cut, **longer)
    deadline = time.monotonic() + 120
    while not list(cut.glob(".scratch/run_stages/*/.scratch/train/*/state-*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == run_stages.INTERRUPTED
    assert "start the same command again" in output
    finished(command(cut, **longer))
    (log,) = cut.glob(".scratch/run_stages/*/train.log")
    assert "going on after update" in log.read_text()
    finished(command(whole, **longer))
    histories = [folder / "kept" / NAME / "history.json" for folder in (cut, whole)]
    assert histories[0].read_bytes() == histories[1].read_bytes()


@pytest.mark.parametrize("code", [0, 3])
def test_a_stage_that_finishes_although_it_was_told_to_stop_is_done(code, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntrap 'exit {code}' TERM\ntouch up\nwhile :; do sleep 0.02; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    runner, outcome = run_stages.Runner(tmp_path, tmp_path / "kept", ""), []

    def work():
        try:
            runner._stages(tmp_path, [("train",)], gpu="")
            outcome.append("done")
        except run_stages.Interrupted:
            outcome.append("interrupted")

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    runner.stop()
    thread.join()
    log = (tmp_path / "train.log").read_text()
    if code:
        assert (outcome, log) == (["interrupted"], "train: it was told to stop and ended with code 3\n")
    else:
        assert (outcome, log) == (["done"], "")
    assert (tmp_path / ".done" / "train").exists() == (code == 0)


def test_one_failure_is_named_and_the_others_are_run(tmp_path):
    # smol's adapters need a checkpoint in data/own/start, which is not there.
    process = command(tmp_path, "v3+lora/tiny/aa1-6x6", "v3/tiny/aa1-6x6", predict={"checkpoints": ["best"]})
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "v3+lora-tiny-aa1-6x6 failed: stage fetch" in output
    assert (tmp_path / "kept" / NAME / "best-votes.parquet").exists()


@pytest.mark.parametrize(
    ("study", "says"),
    [
        ("experiments: {v3/tiny: {}}", "is no VERSION"),
        ("{experiments: {v3/smol/aa1: {}}, seeds: one}", "expected a list of whole numbers"),
        ("{experiments: {v3/smol/aa1: {}}, comon: {}}", "comon: unknown; allowed are common"),
        ("{experiments: {v3/smol/aa1: {trian: {}}}}", "trian"),
        ("{experiments: {v3/smol/aa1: 3}}", "v3/smol/aa1 is 3; expected keys and values"),
        ("{experiments: {v3/smol/aa1: {}}, final_only: [vote]}", "final_only: vote"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_runs(study, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(study)
    with pytest.raises(SystemExit, match=re.escape(says)):
        run_stages.main(Path("study.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_an_unknown_experiment_of_a_study_is_refused():
    with pytest.raises(ConfigurationError, match="v9/smol/aa1"):
        read_study(ROOT / "docs/studies/versions.yaml", ["v9/smol/aa1"])


def test_the_study_of_versions_has_equal_updates_and_each_version_its_own_settings():
    members = read_study(ROOT / "docs/studies/versions.yaml")
    presets = params.read(ROOT / paths.PRESETS)
    for member in members:
        train = member.experiment.train
        own = params.resolve(parse_name(member.experiment.title.split(" ")[0]), presets).train
        assert train.optimizer_steps * train.batch * train.accumulation == 25_000 * 128
        assert train.warmup_steps == round(own.warmup_steps * 25_000 / own.optimizer_steps)
        changed = {name for name in type(own).model_fields if getattr(own, name) != getattr(train, name)}
        assert changed == {"optimizer_steps", "warmup_steps", "log_every"}


def test_the_stages_are_those_of_dvc_yaml():
    names = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    ran = [name for name, *_ in run_stages.PREPARATION] + ["train", "select", "predict"]
    assert ran == names[: names.index("predict") + 1]
