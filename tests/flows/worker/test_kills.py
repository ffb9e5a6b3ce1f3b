"""What nights bring: cancelling, kills, a power cut, a full disk. Real servers and workers, each in its own project."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.flows_lab import (
    ACTIVE,
    LONG,
    NAME,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]


def test_cancelling_saves_frees_and_is_told_to_mlflow(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 100, 120)
    began = time.monotonic()
    lab.arc("queue", "--cancel", run[:8])
    until(lambda: not lab.processes(run), 35)
    seconds = time.monotonic() - began
    assert seconds < 35
    until(lambda: lab.state(run) == "CANCELLED", 35)
    step = lab.saved()
    assert lab.record(run, "stages")[-1]["outcome"] == "interrupted"
    shown = [*lab.log(run), (lab.folder / ".scratch" / "runs" / run / "flow.log").read_text()]
    assert not re.search("Crash|ERROR|WARNING|Traceback|EventsWorker|RWLock", "\n".join(shown))
    print(f"cancel: no process after {seconds:.1f} s, saved {step}, last known {lab.step(run)}")
    assert step >= lab.step(run)
    until(lambda: [status for _, status in lab.mlflow()] == ["KILLED"], 60)
    assert not {row["state"]["type"] for row in lab.tasks(run)} & set(ACTIVE)
    until(lambda: not (lab.folder / ".scratch" / "worktrees" / run).exists(), 60)
    [again] = lab.queue(LONG)
    until(lambda: lab.resumed_from(again), 120)
    assert lab.resumed_from(again) == step


@pytest.mark.parametrize("victim", ["stage", "flow", "worker", "server", "all"])
def test_a_kill_costs_at_most_what_was_not_saved(lab: Lab, victim: str) -> None:
    lab.start_worker()
    asked = time.monotonic()
    [run] = lab.queue(LONG)
    until(lambda: lab.saved() >= 100 and lab.step(run) >= 200, 120)
    saved, known, began = lab.saved(), lab.step(run), time.monotonic()
    # A flow outlives its stage, and a run its server.
    flow = lab.process(run, "prefect.engine")
    old = [p for p in lab.processes(run) if victim != "server" and not (victim == "stage" and p == flow)]
    victims = {
        "stage": lab.training(run)[:1],
        "flow": [flow],
        "worker": [lab.worker],
        "server": [lab.process(None, "prefect", "server", "start")],
        "all": lab.processes(),
    }[victim]
    for process in victims:
        process.send_signal(signal.SIGKILL)
    if victim in ("worker", "all"):
        until(lambda: not any(lab.alive(process) for process in victims), 10)
        lab.start_worker()
    if victim == "server":
        until(lambda: lab.state(run) == "RUNNING" and lab.step(run) > known + 200, 120)
        assert lab.resumed_from(run) == 0, "the run did not notice"
        seconds, lost = time.monotonic() - began, 0
    else:
        until(lambda: lab.resumed_from(run), 120)
        seconds, lost = time.monotonic() - began, max(0, known - lab.resumed_from(run))
        assert lab.resumed_from(run) >= saved
        assert len(lab.record(run, "deaths")) == 1
        spent = [row["device_seconds"] for row in lab.record(run, "stages") if row["stage"] == "train"]
        assert len(spent) == 1, "the part before is counted, once"
        assert 0 < spent[0] < seconds + began - asked
    until(lambda: len(lab.training(run)) == 1, 20)
    left = [process for process in old if lab.alive(process)]
    active = [row["id"] for row in lab.runs() if row["state"]["type"] in ACTIVE]
    print(f"{victim}: {seconds:.1f} s, lost {lost} updates, left {len(left)}, misreported {len(set(active) - {run})}")
    assert not left
    assert active == [run]
    lab.arc("queue", "--cancel", run[:8])
    until(lambda: lab.state(run) == "CANCELLED" and not lab.processes(run), 60)


def test_a_cancelled_run_whose_worker_dies_is_cancelled_by_the_next(lab: Lab) -> None:
    lab.start_worker()
    [run] = lab.queue(LONG)
    until(lambda: lab.step(run) >= 100, 120)
    lab.worker.kill()
    lab.arc("queue", "--cancel", run[:8])
    lab.start_worker()
    until(lambda: lab.state(run) == "CANCELLED" and not lab.processes(run), 60)
    assert [status for _, status in lab.mlflow()] == ["KILLED"]
    assert lab.saved() >= lab.step(run)


def test_twice_dead_at_the_same_step_is_left_failed(lab: Lab) -> None:
    lab.environment["ARC_SAVE_SECONDS"] = "300"
    lab.start_worker()
    [run] = lab.queue({**LONG, "train.log_every": 5000})
    for deaths in (1, 2):
        taken = until(lambda n=deaths: lab.log(run).count("device cpu taken") == n and lab.training(run), 120)
        taken[0].kill()
        until(lambda n=deaths: len(lab.record(run, "deaths") or []) == n, 30)
    until(lambda: lab.state(run) == "FAILED", 60)
    message = lab.states(run)[-1][1]
    assert "died twice at the same place" in message
    assert "killed" in message
    until(lambda: not lab.processes(run), 10)
    until(lambda: [status for _, status in lab.mlflow()] == ["FAILED"], 60)


def test_two_power_cuts_at_the_same_step_leave_it_failed(lab: Lab) -> None:
    lab.environment["ARC_SAVE_SECONDS"] = "300"
    lab.start_worker()
    [run] = lab.queue({**LONG, "train.log_every": 5000})
    for deaths in (1, 2):
        until(lambda n=deaths: lab.log(run).count("device cpu taken") == n, 120)
        lab.stop()
        lab.start_worker()
        until(lambda n=deaths: len(lab.record(run, "deaths") or []) == n, 30)
    until(lambda: lab.state(run) == "FAILED", 60)
    assert "it died there before" in lab.states(run)[-1][1]
    assert [status for _, status in lab.mlflow()] == ["FAILED"]
    assert not {row["state"]["type"] for row in lab.tasks(run)} & set(ACTIVE)


def test_arc_run_saves_when_it_is_told_to_end_and_goes_on(lab: Lab) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A job in the background of a shell inherits it ignored.
    chosen = [part for key, value in LONG.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "flows.arc", "run", NAME, *chosen]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, cwd=lab.folder, env=lab.environment, start_new_session=True, **quiet)

    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = start()
    until(lambda: lab.saved() >= 100, 120)
    first.terminate()
    assert first.wait(60) == 1
    assert not lab.processes()
    assert [status for _, status in lab.mlflow()] == ["KILLED"]
    assert not list((lab.folder / ".scratch" / "worktrees").iterdir())
    step, second = lab.saved(), start()
    until(lambda: lab.saved() > step, 120)
    second.send_signal(signal.SIGINT)
    assert second.wait(60) == 1


@pytest.mark.parametrize("full", ["resume states", "everything"])
def test_a_run_that_met_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, full: str) -> None:
    folder = tmp_path / "lab"
    disk, size = (folder, "200m") if full == "everything" else (folder / ".scratch" / "train", "3m")
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs")
    lab = Lab(folder, ARC_HOLD_GIB="0.001")
    try:
        lab.start_worker()
        [run] = lab.queue(LONG)
        until(lambda: lab.step(run) >= 100 and lab.saved(), 120)
        began = time.monotonic()
        fill(disk / "ballast")
        until(lambda: not lab.processes(run), 60)
        seconds, lost, step = time.monotonic() - began, max(0, lab.step(run) - lab.saved()), lab.saved()
        (disk / "ballast").unlink()
        until(lambda: lab.resumed_from(run), 180)
        message = next(text for name, text in lab.states(run) if name == "Crashed" and "the disk is full" in text)
        print(f"disk full of {full}: ended after {seconds:.1f} s, lost {lost} updates; {message}")
        assert lab.resumed_from(run) == step
    finally:
        lab.stop()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    """Leave no block of its disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)
