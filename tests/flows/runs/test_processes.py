import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.runs import failure_reasons, processes, records, snapshots
from flows.runs.places import FlowError
from flows.runs.stage_process import Outcome, run_stage
from tasks.files.live import RUN_VARIABLE
from tests.conftest import ROOT

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARC_SCRATCH", str(tmp_path))


def started(code: str, run: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, RUN_VARIABLE: run}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    return process


def test_a_reused_pid_is_not_the_same_process(tmp_path: Path) -> None:
    processes.record("a", os.getpid())
    assert processes.recorded("a") == psutil.Process()
    path = tmp_path / "runs" / "a" / "process.json"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "ticks": row["ticks"] - 1}))
    assert processes.recorded("a") is None
    path.write_text(json.dumps({**row, "boot": "another"}))
    assert processes.recorded("a") is None
    for pid in (2**22 - 1, 2**70, 0, -1):
        path.write_text(json.dumps({**row, "process": pid}))
        assert processes.recorded("a") is None


def test_a_process_that_outlives_sigkill_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    child = started(STUBBORN, "stuck")
    try:
        monkeypatch.setattr(processes, "_send", lambda *_: None)  # As to one that waits for a driver.
        monkeypatch.setattr(processes, "KILL_SECONDS", 0.2)
        with pytest.raises(FlowError, match=f"process {child.pid} of run stuck outlives SIGKILL"):
            processes.end("stuck", grace=0.1)
    finally:
        child.kill()
        child.wait()


def test_a_record_that_cannot_be_read_for_now_is_not_thrown_away(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    records.add_death("r", "killed")
    path = tmp_path / "runs" / "r" / "deaths.json"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda _: os.open("/", os.O_RDWR))  # An error of the system.
        assert records.deaths("r") == []
    assert f"{path} cannot be read: Is a directory" in capsys.readouterr().err
    assert [death.reason for death in records.deaths("r")] == ["killed"]


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    records.set_progress("r", records.Progress(stage="train", began=100.0, taken=90.0, at=50.0))
    records.end_stage("r", "killed")
    assert [(row.seconds, row.device_seconds) for row in records.stages("r")] == [(0.0, 0.0)]


def test_a_step_of_the_clock_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    child = started(STUBBORN, "clock")
    try:
        processes.record("clock", child.pid)
        name = snapshots.foreground_name(psutil.Process(child.pid))
        # What psutil adds to the ticks to get a time of the day.
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: 10**9)
        assert processes.recorded("clock")
        assert snapshots.foreground_name(psutil.Process(child.pid)) == name
        assert processes.end("clock", grace=0.1) == 1
    finally:
        child.kill()
        child.wait()


@pytest.mark.slow
def test_ending_ends_all_of_a_run_and_nothing_else() -> None:
    mine, other = started(STUBBORN, "mine"), started(STUBBORN, "other")
    try:
        assert {process.pid for process in processes.living("mine")} == {mine.pid}
        assert processes.end("mine", grace=0.3) == 1
        assert mine.wait(5) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_run_may_die_once_at_a_place() -> None:
    records.set_progress("a", records.Progress(stage="train", step=100, total=500))
    assert records.add_death("a", "killed")
    assert not records.add_death("a", "killed")
    records.set_progress("a", records.Progress(stage="train", step=200, total=500))
    assert records.add_death("a", "killed")
    records.set_progress("a", records.Progress(stage="select"))
    assert records.add_death("a", "killed")
    assert [death.step for death in records.deaths("a")] == [100, 100, 200, 0]


def test_a_stage_that_died_counts_up_to_its_last_output_and_once() -> None:
    records.set_progress("a", records.Progress(stage="train", step=5, total=9, began=100.0, taken=110.0, at=160.0))
    records.end_stage("a", "killed")
    records.end_stage("a", "killed")
    [row] = records.stages("a")
    assert (row.stage, row.seconds, row.device_seconds, row.outcome) == ("train", 60.0, 50.0, "killed")
    assert records.progress("a").step == 5


BROKEN = """
from tasks.common.stage import StageError, stage

@stage("broken")
def main() -> None:
    {code}

main()
"""
DIVERGED = "raise StageError('update 5: loss nan; the training diverged', 'the loss is not finite')"


# Bash gives a stage's signal as Python does, -9; dash as 128 + 9. DVC runs stages in the user's shell.
@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (BROKEN.format(code="open('/dev/full', 'w').write('x' * 9999)"), "the disk is full: No space left on device"),
        (BROKEN.format(code="raise MemoryError('no more')"), "out of memory: MemoryError: no more"),
        (
            BROKEN.format(code="import torch; raise torch.OutOfMemoryError('Tried to allocate 2 GiB')"),
            "out of GPU memory: OutOfMemoryError: Tried to allocate 2 GiB",
        ),
        (BROKEN.format(code=DIVERGED), "the loss is not finite: update 5"),
        (
            BROKEN.format(code="raise StageError('no such edition; allowed are aa1')"),
            "no such edition; allowed are aa1",
        ),
        (BROKEN.format(code="import os; os.kill(os.getpid(), 9)"), "killed by SIGKILL"),
        (BROKEN.format(code="import os; os.kill(os.getpid(), 15)"), "stopped by SIGTERM; start it again"),
        ("import os; os.kill(os.getpid(), 15)", "stopped by SIGTERM (exit code "),
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ],
)
def test_a_failed_stage_gives_its_reason_through_dvc(
    code: str, wanted: str, shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path(shell).exists():
        pytest.skip(f"no {shell}")
    monkeypatch.setenv("SHELL", shell)
    (tmp_path / "dvc.yaml").write_text("stages: {broken: {cmd: python broken.py}}")
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    subprocess.run(["dvc", "init", "-q", "--no-scm"], check=True)
    outcome, seen = Outcome(), []
    run_stage("broken", tmp_path / "events.jsonl", lambda _: None, seen.append, outcome)
    assert outcome.code
    assert failure_reasons.reason(outcome.failure, outcome.code, outcome.lines).startswith(wanted)
    assert failure_reasons.killed(outcome.code) == wanted.startswith("killed")
    assert seen == ([outcome.failure] if outcome.failure else [])


HOLD = """
import sys, time, torch
from tasks.machine import gpu_lock
gpu_lock.take([torch.device("cpu")])
time.sleep(99)
"""


@pytest.mark.slow
def test_the_second_waits_and_says_for_whom_until_the_first_is_dead(tmp_path: Path) -> None:
    environment = {**os.environ, "ARC_LOCKS": str(tmp_path), "ARC_LOCK_CPU": "1", "PYTHONPATH": str(ROOT)}
    script = tmp_path / "train.py"
    script.write_text(HOLD)
    command = [sys.executable, "-u", str(script)]

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)

    first = start()
    assert first.stdout
    assert first.stdout.readline() == "device cpu taken\n"
    second = start()
    assert second.stdout
    try:
        waiting = second.stdout.readline()
        assert waiting.startswith("waiting for device cpu: held by stage train of")
        assert f"process {first.pid}" in waiting
        time.sleep(1.5)
        first.kill()
        assert second.stdout.readline() == "device cpu taken\n"
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
