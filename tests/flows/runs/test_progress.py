"""What is shown of a stage while it runs, and the one line that says why it ended."""

import errno
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flows.runs import failure_reasons, interruption, places, progress, records
from flows.runs.places import FlowError
from tasks.common import events, paths
from tasks.common.presets import ConfigurationError
from tasks.common.stage import FULL_BYTES, StageError


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Percentages and texts of the artifact; the clock is `shown.now` of the module's time."""
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    said: list[Any] = []
    monkeypatch.setattr(
        progress, "create_progress_artifact", lambda share, key, description: said.append((share, description)) or "id"
    )
    monkeypatch.setattr(
        progress, "update_progress_artifact", lambda name, share, description: said.append((share, description))
    )
    return said


def clock(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: 5000.0 + now))


def at(step: int, **fields: Any) -> events.Progress:
    return events.Progress(step=step, total=400, loss=0.5, accuracy=0.25, at=7000.0 + step, **fields)


def test_a_training_is_shown_every_five_seconds_with_the_time_that_is_left(shown: Any, monkeypatch: Any) -> None:
    clock(monkeypatch, 1000.0)
    one = progress.Progress("r", "train")
    assert records.progress("r").model_dump() == {
        "stage": "train",
        "step": 0,
        "total": 0,
        "began": 6000.0,
        "taken": 0.0,
        "at": 6000.0,
    }
    one.event(events.DeviceTaken(device="cpu", at=6001.0))
    assert (records.progress("r").taken, records.progress("r").at) == (6001.0, 6001.0)
    one.event(at(100))
    assert shown == [(25.0, "update 100 of 400, loss 0.500, accuracy 0.250, time left unknown")]
    clock(monkeypatch, 1004.9)
    one.event(at(150))
    assert len(shown) == 1
    assert records.progress("r").step == 150, "what is not shown is recorded"
    clock(monkeypatch, 1010.0)
    one.event(events.CandidateScored(step=150, pass_at_2=0.25, ci95=(0, 1), cell_accuracy=0, grids_solved=1, n_grids=4))
    one.event(at(200))
    # 100 updates in 10 s, 200 are left.
    assert shown[1:] == [
        (50.0, "update 200 of 400, loss 0.500, accuracy 0.250, candidate of update 150: pass@2 25.0 %, 20 s left")
    ]
    clock(monkeypatch, 1011.0)
    one.event(at(400))
    assert shown[-1][0] == 100.0, "the last one at once"
    assert shown[-1][1].endswith(", 0 s left")
    clock(monkeypatch, 1012.0)
    one.line()
    assert (records.progress("r").at, records.progress("r").step) == (6012.0, 400)


def test_a_stage_that_starts_again_keeps_its_place_and_another_begins_anew(shown: Any, monkeypatch: Any) -> None:
    clock(monkeypatch, 0.0)
    progress.Progress("r", "train").event(events.Resumed(step=30, total=400, at=1.0))
    assert shown == []
    clock(monkeypatch, 9.0)
    again = progress.Progress("r", "train")
    assert (again.place.step, again.place.total, again.place.began) == (30, 400, 5009.0)
    again.event(events.Resumed(step=40, total=400, at=1.0))
    clock(monkeypatch, 19.0)
    again.event(at(80))
    assert shown[-1][1].endswith("1 min 20 s left"), "the rate is of this start: 40 updates in 10 s, 320 are left"
    assert progress.Progress("r", "select").place.step == 0


def test_a_server_that_is_away_hides_the_progress_and_is_told(shown: Any, monkeypatch: Any) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("away")

    told: list[Any] = []
    monkeypatch.setattr(progress, "create_progress_artifact", away)
    monkeypatch.setattr(progress, "get_run_logger", lambda: SimpleNamespace(warning=lambda *given: told.append(given)))
    progress.Progress("r", "train").event(at(1))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("failure", "code", "lines", "says"),
    [
        (events.Failed(reason="other error", message="wrong key"), 1, [], "wrong key"),
        (events.Failed(reason="out of memory", message="8 GB"), 1, [], "out of memory: 8 GB"),
        (None, -9, [], "killed by SIGKILL (exit code -9): by the system when memory runs out, or by hand"),
        (None, 137, [], "killed by SIGKILL (exit code 137): by the system when memory runs out, or by hand"),
        (None, -15, [], "stopped by SIGTERM (exit code -15)"),
        (None, 143, [], "stopped by SIGTERM (exit code 143)"),
        (None, 1, ["x.MyError: a", "  then ", "ERROR: failed to reproduce 'train': b"], "x.MyError: a"),
        (None, 1, ["ValueError: a", "ERROR: b"], "ERROR: b"),
        (None, 1, ["Errors: no", "  last  ", ""], "last"),
        (None, 3, ["", " "], "exit code 3, without a message"),
    ],
)
def test_a_stage_says_why_it_ended(shown: Any, failure: Any, code: int, lines: list[str], says: str) -> None:
    places.scratch().mkdir()
    assert failure_reasons.reason(failure, code, lines) == says
    assert failure_reasons.killed(code) == (code in (-9, 137))


def test_a_full_disk_is_the_reason_where_nothing_else_could_be_written(
    shown: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    for free, full in ((FULL_BYTES - 1, True), (FULL_BYTES, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        says = failure_reasons.reason(None, 1, ["ValueError: a"])
        assert says == (f"the disk is full: {tmp_path / '.scratch'}" if full else "ValueError: a")
    assert failure_reasons.of_file_error(OSError(errno.ENOSPC, "No space", "/x")).startswith("the disk is full: ")
    assert not failure_reasons.of_file_error(OSError(errno.EACCES, "denied", "/x")).startswith("the disk is full")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FlowError("a\x1b"), "a"),
        (ConfigurationError("b"), "b"),
        (StageError("c"), "c"),
        (httpx.ConnectError("refused\nhere"), "the server's answer: ConnectError: refused here"),
        (PermissionError(13, "denied", "/x"), "denied"),
        (KeyError("ours"), None),
    ],
)
def test_errors_of_the_user_and_of_the_server_are_expected(error: Exception, says: str | None) -> None:
    found = failure_reasons.expected(error)
    assert found is None if says is None else found and says in found
    assert "\x1b" not in (found or "")


def test_an_interrupted_run_is_told_to_mlflow_by_another_process(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    asked: list[Any] = []
    ends = [subprocess.CompletedProcess([], 0, "", ""), subprocess.CompletedProcess([], 1, "", "no store\n")]
    run = lambda command, cwd, **_: asked.append((command[1:], cwd)) or ends.pop(0)  # noqa: E731
    monkeypatch.setattr("flows.runs.interruption.subprocess.run", run)
    interruption.publish("r", tmp_path, "KILLED", "cancelled")
    assert asked == [], "its parameters were not resolved yet"
    (tmp_path / paths.EXPERIMENT).parent.mkdir(parents=True)
    (tmp_path / paths.EXPERIMENT).touch()
    interruption.publish("r", tmp_path, "KILLED", "cancelled")
    assert asked == [(["-m", "flows.runs.interruption", "r", "KILLED", "cancelled"], tmp_path)]
    assert capsys.readouterr().err == ""
    interruption.publish("r", tmp_path, "FAILED", "why")
    assert capsys.readouterr().err == "status FAILED of run r could not be written to MLflow: no store\n"
