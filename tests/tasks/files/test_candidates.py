"""What all candidates of a training say of their data, which of them are lost, and their scores on the way."""

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.storage import checkpoints
from tasks import select
from tasks.common import events, paths
from tasks.common.stage import StageError
from tasks.files import candidates, live, start_checkpoint, tables
from tests.conftest import experiment
from tests.support.small_experiment import build, save_checkpoint

RESULT = {
    "step": 6,
    "pass_at_2": 0.1256,
    "ci95": (0.05, 0.25),
    "cell_accuracy": 0.5004,
    "grids_solved": 1,
    "n_grids": 8,
    "oracle": 1.0,
}
FIRST, LAST = "f" * 16, "0" * 16
"""Fingerprints of pairs, the second before the first in order."""


def test_a_score_is_printed_and_told_and_moves_no_draw(workspace: Path, monkeypatch: Any, capsys: Any) -> None:
    asked: list[Any] = []

    def measure(*given: Any) -> dict[str, Any]:
        asked.append(given)
        torch.rand(3)
        return RESULT

    monkeypatch.setattr(select, "measure", measure)
    monkeypatch.setenv(events.VARIABLE, "events.jsonl")
    config = experiment(seed=5)
    state = torch.get_rng_state()
    candidates.score(Path("a/step"), config)
    assert torch.equal(torch.get_rng_state(), state)
    assert asked == [(Path("a/step"), config.select, 5)]
    assert capsys.readouterr().out == (
        "candidate of update 6: pass@2 0.126 [0.050, 0.250], cells right 0.500, 1 of 8 grids\n"
    )
    [told] = events.Reader(Path("events.jsonl")).new()
    del (wanted := dict(RESULT))["oracle"]
    assert told.model_dump(exclude={"at"}) == wanted | {"kind": "candidate_scored"}


@pytest.mark.parametrize(
    ("error", "reason"), [(torch.OutOfMemoryError("a"), "out of GPU memory"), (MemoryError("a"), "out of memory")]
)
def test_a_lack_of_memory_is_the_scorings(monkeypatch: Any, error: Exception, reason: str) -> None:
    def measure(*_: Any) -> None:
        raise error

    monkeypatch.setattr(select, "measure", measure)
    with pytest.raises(StageError) as raised:
        candidates.score(Path("a/step"), experiment())
    assert (str(raised.value), raised.value.reason) == ("scoring the candidate a/step: a", reason)
    monkeypatch.setattr(select, "measure", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        candidates.score(Path("a/step"), experiment())


@pytest.mark.parametrize(("step", "asked"), [(3, []), (4, [4]), (7, [4]), (8, [4, 8]), (11, [4, 8]), (12, [4, 8, 12])])
def test_all_candidates_up_to_a_save_must_be_there(monkeypatch: Any, step: int, asked: list[int]) -> None:
    config = experiment(train={"candidates": 2}).train.model_copy(update={"candidates": 3})
    looked: list[Path] = []
    monkeypatch.setattr(checkpoints, "check_intact", looked.append)
    assert candidates.lost(Path("a"), config, step) is None
    assert looked == [Path(f"a/step-{number:07d}") for number in asked]

    def broken(stem: Path) -> None:
        if stem.name == "step-0000008":
            raise checkpoints.CheckpointError("it is gone")

    monkeypatch.setattr(checkpoints, "check_intact", broken)
    assert candidates.lost(Path("a"), config, step) == ("it is gone" if step >= 8 else None)


def leaking(mode: str) -> None:
    contents = json.loads(paths.LEAKS.read_text())
    found = [{"task": "cccccccc", "test": 0}, {"task": "dddddddd", "test": 1}, {"task": "dddddddd", "test": 1}]
    extra = {"other": "x", "pair": 0}
    paths.LEAKS.write_text(json.dumps(contents | {"leaks": mode, "pairs_of_other_tasks": [e | extra for e in found]}))


def described(**changes: Any) -> dict[str, Any]:
    config = build(**changes)
    dataset = tables.read_dataset("train", paths.TRAINING_VIEWS)
    return candidates.describe(config, tables.read_tasks(), dataset)


def test_a_description_names_what_was_trained_on(workspace: Path) -> None:
    found = described(seed=7)
    held_out = {name for name, _ in tables.read_pairs("validation")}
    assert found["tests_trained_on"] == sorted({"aaaaaaaa", "bbbbbbbb"} - held_out)
    assert len(held_out) == 1
    pairs = found["pairs_trained_on"].split()
    assert pairs == sorted(set(pairs))
    assert (found["seed"], found["optimizer_steps"], found["leaks"]) == (7, 12, 0)
    assert (found["weights"], found["format"], found["data"]) == ("raw", checkpoints.FORMAT, tables.data_digest())
    assert found["tasks"] == [task["name"] for task in tables.read_tasks()]
    assert (found["task_rows"], found["first_rows"]) == (4, [0, 1, 2, 3])
    checkpoints.Description.model_validate(found | {"step": 1, "stopped_early": False})
    config = experiment(prepare={"validation_tasks": 1})
    tasks, dataset = tables.read_tasks(), tables.read_dataset("train", paths.TRAINING_VIEWS)
    for mode, count in (("drop", 0), ("keep", 2)):
        leaking(mode)
        assert candidates.describe(config, tasks, dataset)["leaks"] == count


def test_what_a_start_was_trained_on_counts_too(workspace: Path, capsys: Any, monkeypatch: Any) -> None:
    plain = described()
    config = experiment(prepare={"validation_tasks": 1})
    [held_out] = {name for name, _ in tables.read_pairs("validation")}
    save_checkpoint(config, "x", tests_trained_on=["zzzzzzzz", held_out], pairs_trained_on=f"{FIRST} {LAST}")
    start = checkpoints.describe(paths.CHECKPOINTS / "x")
    leaks = {("cccccccc", 0), ("dddddddd", 0)}
    monkeypatch.setattr(start_checkpoint, "describe", lambda: start)
    monkeypatch.setattr(start_checkpoint, "leaked", lambda before, report: leaks if before is start else None)
    finetune = config.train.finetune.model_copy(update={"start": "x"})
    config = config.model_copy(update={"train": config.train.model_copy(update={"finetune": finetune})})
    leaking("keep")
    capsys.readouterr()
    dataset = tables.read_dataset("train", paths.TRAINING_VIEWS)
    found = candidates.describe(config, tables.read_tasks(), dataset)
    assert found["tests_trained_on"] == sorted({*plain["tests_trained_on"], "zzzzzzzz", held_out})
    assert found["pairs_trained_on"].split() == sorted({*plain["pairs_trained_on"].split(), FIRST, LAST})
    assert found["leaks"] == 3
    says = "the start was trained on the test pairs of 1 of 1 validation tasks\n"
    assert capsys.readouterr().out == says
    monkeypatch.setattr(start_checkpoint, "leaked", lambda *_: set())
    monkeypatch.setattr(start_checkpoint, "describe", lambda: start.model_copy(update={"tests_trained_on": ["z"]}))
    assert candidates.describe(config, tables.read_tasks(), dataset)["leaks"] == 2
    assert capsys.readouterr().out == ""


def test_a_training_is_followed_by_a_process_that_learns_of_its_end(workspace: Path, monkeypatch: Any) -> None:
    ran: list[Any] = []
    copies: list[Path] = []

    def run(command: list[str], **options: Any) -> None:
        assert stat.S_ISFIFO(os.fstat(options["stdin"]).st_mode)
        ran.append((command, options["start_new_session"], options["stdout"].name, options["stderr"].name))

    monkeypatch.setattr(live, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(events, "copy_to", copies.append)
    monkeypatch.setenv("ARC_LIVE", "0")
    live.start("key")
    assert (ran, copies, live.folder("key").exists()) == ([], [], False)
    for text in ("1", ""):
        monkeypatch.setenv("ARC_LIVE", text)
        live.start("key")
    place = live.folder("key").absolute()
    assert live.folder("key") == paths.SCRATCH / "live" / "key"
    assert copies == [place / "events.jsonl"] * 2
    [(command, new_session, out, err), _] = ran
    assert command[:2] == ["sh", "-c"]
    assert command[-3:] == ["-m", "tasks.tracking.live", str(place)]
    assert new_session
    assert out == err == str(place / "log.txt")
