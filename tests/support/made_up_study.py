"""A study whose stages are made up: a few lines each, without torch, that tell how they were called."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.common import paths
from tasks.common.presets import merge
from tasks.studies import run_stages
from tests.conftest import ROOT, SMALL

STAGE = """
import json, os, pathlib, sys
name = sys.argv[0].rsplit("/", 1)[1][:-3]
with open("told", "a") as file:
    given = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "ARC_SCRATCH", "ARC_GPUS", "ARC_LOCKS")]
    file.write(json.dumps([name, sys.argv[1:], *given]) + "\\n")
print(name, "ran")
made = {"select": "data/selection.json", "train": ".scratch/cost/k.json"}.get(name)
if made:
    pathlib.Path(made).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(made).write_text('{"seconds": 9.0}')
if name == "fetch":
    for folder in ("data/raw/extra", "data/start"):
        pathlib.Path(folder).mkdir(parents=True)
    pathlib.Path("data/raw/extra/rearc.json").write_text(str(os.getpid()))
if pathlib.Path("../../fails").exists() and name == pathlib.Path("../../fails").read_text():
    sys.exit("no luck")
"""


def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study of two experiments; the stages are made up, without torch."""
    code = tmp_path / "code"
    (code / "tasks" / "studies").mkdir(parents=True)
    for package in ("tasks", "tasks/studies"):
        (code / package / "__init__.py").touch()
    for name in ("params", "fetch", "prepare", "augment", "train", "select", "studies/predict_all"):
        (code / "tasks" / f"{name}.py").write_text(STAGE)
    (code / paths.PRESETS).symlink_to(ROOT / paths.PRESETS)
    (code / paths.OWN).mkdir(parents=True)
    (code / paths.OWN / "mine.txt").touch()
    monkeypatch.setattr(run_stages, "ROOT", code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "ARC_SCRATCH")})
    for name in ("CUDA_VISIBLE_DEVICES", "ARC_LOCKS"):
        os.environ.pop(name, None)
    common = {key: value for key, value in merge(SMALL, {}).items() if key not in ("version", "size", "dataset")}
    given = {"common": common, "final_only": ["attempts"], "experiments": {"v3/tiny/aa1": {}, "v6/tiny/aa1": {}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def told(folder: Path) -> list[Any]:
    """What the stages tell: name, arguments, and CUDA_VISIBLE_DEVICES, ARC_SCRATCH, ARC_GPUS and ARC_LOCKS."""
    files = folder.glob(".scratch/run_stages/*/told")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def run(*names: str, **options: Any) -> None:
    run_stages.main(
        Path("study.yaml"),
        list(names) or None,
        Path("kept"),
        Path(".scratch/run_stages"),
        options.get("gpus", ""),
        options.get("commit", ""),
        prepare_only=options.get("prepare_only", False),
        beside=options.get("beside", False),
    )
