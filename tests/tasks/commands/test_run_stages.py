"""Whole experiments by the stages alone: what is kept, what is not done again, and what an interruption loses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tasks.commands import import_results, run_stages
from tasks.common.presets import merge
from tests.conftest import ROOT, SMALL, experiment

pytestmark = pytest.mark.slow


NAME = "v3-tiny-aa1-6x6-s0"


def command(folder: Path, *names: str, **changes: object) -> "subprocess.Popen[str]":
    overrides = {
        key: value for key, value in merge(SMALL, changes).items() if key not in ("version", "size", "dataset")
    }
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(overrides))
    arguments = [sys.executable, "-m", "tasks.commands.run_stages", *(names or ["v3/tiny/aa1-6x6"])]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "ARC_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "ARC_SAVE_SECONDS": "0",
    }
    return subprocess.Popen(
        [*arguments, "--commit", "abc1234", "--overrides", "small.yaml"],
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
    finished(command(tmp_path))
    done = times(tmp_path)
    assert {Path(name).name for name in done} >= {"train", "select", "predict-best-votes", "predict-final-attempts"}
    kept = tmp_path / "kept" / NAME
    cost = json.loads((kept / "cost.json").read_text())
    assert cost["commit"] == "abc1234"
    assert 0 < cost["seconds"] < cost["stages"]["train"]
    result = import_results.read(kept, tmp_path)
    assert len(result.evaluations) == 6
    finished(command(tmp_path))
    assert times(tmp_path) == done


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


def test_one_failure_is_named_and_the_others_are_run(tmp_path):
    # smol's adapters need a checkpoint in data/own/start, which is not there.
    process = command(tmp_path, "v3+lora/tiny/aa1-6x6", "v3/tiny/aa1-6x6", predict={"checkpoints": ["best"]})
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "v3+lora-tiny-aa1-6x6-s0: stage fetch" in output
    assert (tmp_path / "kept" / NAME / "best-votes.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["v3/tiny"],), "is no VERSION"),
        ((["v3/tiny/aa1"], None, "one"), "expected whole numbers"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=says):
        run_stages.main(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_stages_are_those_of_dvc_yaml():
    names = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    ran = list(dict.fromkeys(name for name, *_ in run_stages.stages(experiment())))
    assert ran == names[: names.index("predict") + 1]
