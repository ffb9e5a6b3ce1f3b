"""Why a stage failed, by the exception or what caused it; and the second file to which a process writes its events."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.common import events
from tasks.files import cost
from tests.conftest import experiment
from tests.support.small_experiment import build


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("x"), "out of GPU memory"),
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "x"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("database or disk is full"), "the disk is full"),
        (OSError(errno.EACCES, "x"), "other error"),
        (RuntimeError("x"), "other error"),
    ],
)
def test_the_reason_is_that_of_the_exception_or_its_causes(error: Exception, reason: str) -> None:
    assert events.reason_of(error) == reason
    for caused in (_raised(error, True), _raised(_raised(error, False), True)):
        assert events.reason_of(caused) == reason


def _raised(error: Exception, stated: bool) -> Exception:
    """An exception that was raised of it, or while it was handled."""
    try:
        try:
            raise error
        except type(error) as cause:
            if stated:
                raise KeyError from cause
            raise LookupError  # noqa: B904
    except LookupError as later:
        return later


def test_the_first_reason_in_the_chain_counts() -> None:
    try:
        raise MemoryError from OSError(errno.ENOSPC, "x")
    except MemoryError as error:
        assert events.reason_of(error) == "out of memory"


def test_a_process_writes_to_its_watcher_and_to_a_copy(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(events, "_copies", [])
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "first"))
    events.emit(events.Trained())
    events.copy_to(tmp_path / "second")
    events.emit(events.Warned(message="x"))
    monkeypatch.delenv(events.VARIABLE)
    events.emit(events.Warned(message="y"))

    def kinds(name: str) -> list[Any]:
        return [getattr(event, "message", event.kind) for event in events.Reader(tmp_path / name).new()]

    assert (kinds("first"), kinds("second")) == (["trained", "x"], ["x", "y"])
    events.copy_to(tmp_path / "none" / "third")
    events.emit(events.Warned(message="z"))
    assert kinds("second") == ["x", "y", "z"]
    said = capsys.readouterr().err
    assert said.startswith(f"the event 'warned' could not be written to {tmp_path}/none/third (ARC_EVENTS): ")


def test_the_time_of_a_training_adds_up_and_a_broken_record_is_counted_anew(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build()
    config, now = experiment(prepare={"validation_tasks": 1}), [1000.0]
    monkeypatch.setattr(cost.time, "time", lambda: now[0])  # type: ignore[attr-defined]
    assert cost.read(config) is None
    cost.add(config, 30.0, "a")
    now[0] = 2000.0
    cost.add(config, 12.5, "b", began=1900.0)
    found = cost.read(config)
    assert found
    kept = {name: found[name] for name in ("seconds", "device", "started", "ended")}
    assert kept == {"seconds": 42.5, "device": "b", "started": 970.0, "ended": 2000.0}
    assert cost.read(config.model_copy(update={"seed": 1})) is None
    [file] = (workspace / ".scratch" / "cost").iterdir()
    file.write_text(file.read_text().replace("42.5", "1.5"))
    capsys.readouterr()
    cost.add(config, 2.0, "c", began=1990.0)
    said = capsys.readouterr().out
    assert said.endswith("; remove it, and the time of this training is unknown; counted anew from here\n")
    found = cost.read(config)
    assert found
    assert (found["seconds"], found["started"]) == (2.0, 1990.0)
