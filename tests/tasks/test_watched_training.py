"""The stage train with injected faults: what it does, and what log, events, MLflow's reason and exit status say."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml

from model.training import trainer
from model.training.history import history_row
from model.training.trainer import Training
from tasks import train
from tasks.common import events, paths
from tasks.common.params import flatten, resolved
from tasks.common.titles import SILENT
from tasks.files import cost
from tests.conftest import ROOT, experiment
from tests.support.small_experiment import build

pytestmark = pytest.mark.slow
TRAIN = {"batch": 64, "log_every": 2}
"""Large enough that half the micro-batch is smaller than the whole: batches have multiples of 128 rows."""


@pytest.fixture
def prepared(workspace, monkeypatch):
    """Builds data and parameters; trains and returns the events, with the exit if there was one."""
    monkeypatch.setenv(events.VARIABLE, str((workspace / "events.jsonl").absolute()))

    def start(**changes):
        build(**{"train": TRAIN, **changes})
        log = workspace / "events.jsonl"
        log.unlink(missing_ok=True)
        try:
            train.main()
            ending = None
        except SystemExit as error:
            ending = error
        return list(events.Reader(log).new()), ending

    return start


def outputs():
    """Weights of the candidates, history and probes."""
    weights = {path.name: path.read_bytes() for path in sorted(paths.CANDIDATES.glob("*.safetensors"))}
    return weights, paths.HISTORY.read_bytes(), json.loads(paths.PROBES.read_text())


SHORTAGE = torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")


def failing(monkeypatch, updates, error=SHORTAGE):
    """Have the trainings of this process lack memory at these updates, by the order in which they are begun."""
    left, update = list(updates), Training.update

    def fail(self, batches):
        if left and self.step + 1 == left[0]:
            left.pop(0)
            raise error
        update(self, batches)

    monkeypatch.setattr(Training, "update", fail)


def test_a_lack_of_memory_gives_what_half_the_batch_and_twice_the_accumulation_give(prepared, monkeypatch, capsys):
    assert prepared(train={**TRAIN, "batch": 32, "accumulation": 2})[1] is None
    weights, history, probes = outputs()
    failing(monkeypatch, [5])
    told, ending = prepared()
    assert ending is None
    assert outputs()[:2] == (weights, history)
    said = {"after_update": 0, "batch": 32, "accumulation": 2}
    assert outputs()[2] == probes | {"out_of_memory": said}
    [warned] = [event for event in told if isinstance(event, events.Warned)]
    assert warned.message == (
        "out of GPU memory: update 5: CUDA out of memory. Tried 2 GiB; once more from update 0 on, with train.batch 32 "
        "and train.accumulation 2, which makes the same examples an update"
    )
    assert f"warning: {warned.message}" in capsys.readouterr().out
    assert isinstance(told[-1], events.Trained)


def test_it_goes_on_from_the_last_save(prepared, monkeypatch):
    monkeypatch.setenv("ARC_SAVE_SECONDS", "0")
    failing(monkeypatch, [8], RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    told, ending = prepared()
    assert ending is None
    assert outputs()[2]["out_of_memory"] == {"after_update": 7, "batch": 32, "accumulation": 2}
    assert [event.step for event in told if isinstance(event, events.Resumed)] == [7]
    assert [row["step"] for row in json.loads(paths.HISTORY.read_text())] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("updates", "changes", "update"),
    [
        ([5, 9], {}, 9),
        ([5], {"watch": {"out_of_memory": "stop"}}, 5),
        ([5], {"train": {**TRAIN, "batch": 63}}, 5),
        ([5], {"train": {**TRAIN, "batch": 2}}, 5),
    ],
    ids=["twice", "stop", "an odd batch", "a batch that one example fills"],
)
def test_otherwise_a_lack_of_memory_ends_it(prepared, monkeypatch, updates, changes, update):
    failing(monkeypatch, updates)
    told, ending = prepared(**changes)
    assert str(ending) == f"train: update {update}: CUDA out of memory. Tried 2 GiB"
    assert ending.code == 5
    assert (told[-1].kind, told[-1].reason) == ("failed", "out of GPU memory")


def test_a_lack_of_memory_while_a_candidate_is_scored_is_not_tried_again(prepared, monkeypatch):
    def score(*_):
        raise torch.OutOfMemoryError("Tried 2 GiB")

    monkeypatch.setattr("tasks.select.measure", score)
    told, ending = prepared(train={**TRAIN, "evaluate_candidates": True})
    assert ending.code == 5
    assert "scoring the candidate" in str(ending)
    assert not any(isinstance(event, events.Warned) for event in told)


def jumping(monkeypatch, at):
    """Have the rows from update `at` on show ten times the loss."""
    row = history_row

    def jump(sums, config, step, updates):
        values = row(sums, config, step, updates)
        return values | {"loss": values["loss"] * (10 if step >= at else 1)}

    monkeypatch.setattr(trainer, "history_row", jump)


def test_a_loss_that_jumps_ends_the_training_and_going_on_resumes_it(prepared, monkeypatch, capsys):
    monkeypatch.setenv("ARC_SAVE_SECONDS", "0")
    jumping(monkeypatch, 10)
    rows = {"factor": 3.0, "rows": 3}
    told, ending = prepared(watch={"divergence": {**rows, "then": "stop"}})
    assert ending.code == 4
    assert str(ending).startswith("train: update 10: loss ")
    assert "the median of the 3 rows before; the training diverged. Lower" in str(ending)
    assert f"{ending}\n" in capsys.readouterr().err
    assert (told[-1].kind, told[-1].reason) == ("failed", "the loss diverged")
    told, ending = prepared(watch={"divergence": {**rows, "then": "go-on"}})
    assert ending is None
    assert [event.step for event in told if isinstance(event, events.Resumed)] == [9]
    assert [event.message.split(":")[0] for event in told if isinstance(event, events.Warned)] == ["update 10"]


STALL = """
import time
from model.training.batches import Stream
from tasks import train
batches = Stream.batches
def slow(*arguments):
    for i, batch in enumerate(batches(*arguments)):
        if i == 6:
            time.sleep(600)
        yield batch
Stream.batches = slow
train.main()
"""


def test_a_training_that_stalls_ends_with_its_reason_and_resumes(prepared, workspace, monkeypatch):
    monkeypatch.setenv("ARC_SAVE_SECONDS", "0")
    build(train=TRAIN, watch={"stall": {"seconds": 2.0, "then": "stop"}})
    command = [sys.executable, "-c", STALL]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 6, done.stderr
    assert "train: no update for 2 s after update 6; the training is at <string>:9, slow; start" in done.stderr
    told = list(events.Reader(workspace / "events.jsonl").new())
    assert (told[-1].kind, told[-1].reason) == ("failed", "no progress")
    spent = cost.read(experiment(train=TRAIN, prepare={"validation_tasks": 1}))
    assert spent
    assert spent["seconds"] > 2
    told, ending = prepared(watch={"stall": {"seconds": 2.0, "then": "stop"}})
    assert ending is None
    assert [event.step for event in told if isinstance(event, events.Resumed)] == [6]


def test_what_watches_a_training_changes_nothing_of_a_result_and_makes_nothing_stale(prepared):
    assert prepared()[1] is None
    before, key = outputs(), cost.training_key(resolved())
    other = {"divergence": {"factor": 1.01, "rows": 3, "then": "go-on"}, "out_of_memory": "stop"}
    _, ending = prepared(watch={**other, "stall": {"seconds": 0.001, "then": "go-on"}})
    assert ending is None
    assert outputs() == before
    assert cost.training_key(resolved()) == key
    assert experiment(watch=other).title == experiment().title
    assert "watch" in SILENT
    assert any(name.startswith("watch.") for name in flatten(experiment().model_dump(mode="json")))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = [part for stage in stages.values() for part in stage.get("params", ())]
    read = {key for part in params for key in part["data/experiment.yaml"]}
    assert not any(key.split(".")[0] == "watch" for key in read)
