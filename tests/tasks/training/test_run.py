"""One run of a training that calls back as it likes: what is printed, told, saved and raised, and by which process."""

import threading
from pathlib import Path
from typing import Any

import pytest
import rich
import torch

from model.storage import checkpoints
from model.training import resume_states
from model.training.history import Diverged
from model.training.trainer import Stopped
from model.training.watch import LossRose, Watcher
from tasks import train
from tasks.common import stops
from tasks.common.stage import StageError
from tasks.files import candidates
from tests.support.made_up_training import MadeUp, start, told

pytestmark = pytest.mark.usefixtures("log")


def two_rows(training: MadeUp, callbacks: Any) -> None:
    held_out = {"validation_cross_entropy": 0.75, "validation_accuracy": 0.125, "validation_loss": 0.5}
    for step, more in ((3, {}), (7, held_out)):
        training.step = step
        callbacks.on_row({"step": float(step), "loss": 1.2341 * step, "accuracy": 0.5, "gradient": 9.0, **more})


LINES = (
    "update 3 of 12: loss 3.702 accuracy 0.500",
    "update 7 of 12: loss 8.639 accuracy 0.500 validation cross-entropy 0.750 accuracy 0.125",
)


def test_every_row_is_printed_and_told_by_the_first_process(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(MadeUp(two_rows)) is None
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("update")] == list(LINES)
    first, row, second, _ = told(log)
    assert (first.kind, first.step, first.total, first.accuracy) == ("progress", 3, 12, 0.5)
    assert first.loss == pytest.approx(3.7023)
    assert first.validation_loss is None
    assert row.values == {"step": 3.0, "loss": 1.2341 * 3, "accuracy": 0.5, "gradient": 9.0}
    assert (second.step, second.validation_loss, second.validation_accuracy) == (7, 0.5, 0.125)


def test_another_process_prints_and_tells_nothing(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(MadeUp(two_rows, rank=1, count=2)) is None
    assert capsys.readouterr() == ("", "")
    assert not log.exists()


def test_a_terminal_gets_the_bar_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(rich, "_console", None)  # Another test's has that one's width.
    monkeypatch.setenv("COLUMNS", "200")
    begun = MadeUp(lambda *_: None)
    begun.step = 5
    start(begun)
    assert "training" in (printed := capsys.readouterr().out)
    assert "5/12" in printed
    start(MadeUp(two_rows))
    printed = capsys.readouterr().out
    assert "loss 8.639 accuracy 0.500" in printed
    assert "7/12" in printed
    assert "update 7 of 12" not in printed


@pytest.mark.parametrize("rank", [0, 1])
def test_a_candidate_has_both_kinds_of_weights_and_is_written_once(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[tuple[str, int]] = []
    monkeypatch.setattr(candidates, "score", lambda stem, config: scored.append((stem.name, config.seed)))

    def script(training: MadeUp, callbacks: Any) -> None:
        for training.step in (6, 12):
            training.stopped_early = training.step == 12
            callbacks.on_candidate(training.step)

    training = MadeUp(script, rank, 1 + rank)
    start(training)
    assert training.asked == ["ema", "raw"] * 2, "every process helps to collect sharded weights"
    files = sorted(path.name for path in Path("scratch").rglob("*.safetensors"))
    assert files == ([] if rank else ["step-0000006.safetensors", "step-0000012.safetensors"])
    if not rank:
        for step, early in ((6, False), (12, True)):
            found = checkpoints.describe(Path(f"scratch/candidates/step-{step:07d}"))
            assert (found.step, found.stopped_early, found.seed, found.tasks) == (step, early, 4, ("a", "b"))
            for kind, value in (("ema", 1.0), ("raw", 2.0)):
                kept = checkpoints.read_weights(Path(f"scratch/candidates/step-{step:07d}"), kind)
                assert torch.equal(kept["w"], torch.full((2, 3), value + step))
    assert scored == []
    start(MadeUp(script, rank, 1 + rank, evaluate_candidates=True), seed=3)
    assert scored == ([] if rank else [("step-0000006", 3), ("step-0000012", 3)])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_save_is_on_the_disk_when_the_run_ends_also_by_an_error(rank: int) -> None:
    def script(training: MadeUp, callbacks: Any) -> None:
        training.step = 4
        callbacks.on_save()
        raise ZeroDivisionError

    training = MadeUp(script, rank, 1 + rank)
    with pytest.raises(ZeroDivisionError):
        start(training, halved_after=2)
    assert training.asked == ["state"]
    state = resume_states.newest(Path("scratch"))
    if rank:
        assert state is None
        return
    assert state
    tensors, plain = resume_states.read(state)
    assert tensors["w"].tolist() == [6.0, 2.0]
    assert plain == {"step": 4, "place": [0, 4], "halved_after": 2}
    assert resume_states.sweep(Path("scratch"), train.code(), lambda _: None) == [], "saved as of this code"


def test_the_interval_of_the_saves_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start(training := MadeUp(lambda *_: None))
    assert training.save_seconds == 60.0
    for text, seconds in (("0", 0.0), ("2.5", 2.5)):
        monkeypatch.setenv("ARC_SAVE_SECONDS", text)
        start(training)
        assert training.save_seconds == seconds


def raising(error: BaseException) -> MadeUp:
    def script(training: MadeUp, callbacks: Any) -> None:
        training.step = 8
        raise error

    return MadeUp(script)


@pytest.mark.parametrize(
    ("error", "reason", "says"),
    [
        (Stopped("stopped after update 8"), "stopped", "stopped after update 8; start the stage again to go on"),
        (Diverged("update 8: loss nan"), "the loss is not finite", "update 8: loss nan"),
        (LossRose("update 8: loss 9"), "the loss diverged", "update 8: loss 9"),
    ],
)
def test_an_ending_has_its_reason(error: Exception, reason: str, says: str) -> None:
    with pytest.raises(StageError) as raised:
        start(raising(error))
    assert (str(raised.value), raised.value.reason) == (says, reason)
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


LACKS: list[tuple[BaseException, str]] = [
    (torch.OutOfMemoryError("Tried 2 GiB\nmore"), "out of GPU memory"),
    (MemoryError("no blocks\nmore"), "out of memory"),
    (RuntimeError("can't allocate memory\nmore"), "out of memory"),
]


@pytest.mark.parametrize(("error", "reason"), LACKS)
def test_a_first_lack_of_memory_is_returned_and_a_second_raised(error: Exception, reason: str) -> None:
    says = f"update 9: {str(error).splitlines()[0]}"
    found = start(raising(error))
    assert found
    assert (str(found), found.reason) == (says, reason)
    for halved_after, watch in ((0, "halve"), (None, "stop")):
        with pytest.raises(StageError) as raised:
            start(raising(error), halved_after, watch={"out_of_memory": watch})
        assert (str(raised.value), raised.value.reason) == (says, reason)


@pytest.mark.parametrize(
    "error", [RuntimeError("another"), StageError("scoring", "out of memory"), torch.AcceleratorError("device assert")]
)
def test_other_errors_are_raised_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        start(raising(error))
    assert raised.value is error


@pytest.mark.parametrize("count", [1, 2])
def test_several_processes_only_note_a_signal_from_the_beginning(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(stops, "noted", lambda: order.append("noted") or True)
    monkeypatch.setattr(Watcher, "update", lambda _: order.append("update"))

    def script(training: MadeUp, callbacks: Any) -> None:
        order.append("run")
        assert callbacks.stop() is True

    start(MadeUp(script, count=count))
    assert order == ["noted"] * (count - 1) + ["run", "update", "noted"]
