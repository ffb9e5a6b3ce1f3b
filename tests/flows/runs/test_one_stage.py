"""One stage as a process, made of a few lines of shell: its output, its exit code, and its end when the run ends."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.runs import places, stage_process
from flows.runs.stage_process import Outcome, run_stage
from tasks.common import events


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script as the stage; what it wrote, and the events, are in the outcome and the lists."""
    monkeypatch.setattr(places, "environment", lambda: {"GIVEN": "yes"})
    monkeypatch.setattr(stage_process, "POLL_SECONDS", 0.02)

    def run(script: str, on_line: Any = None) -> tuple[Outcome, list[str], list[Any]]:
        monkeypatch.setattr(stage_process, "_command", lambda _: ["sh", "-c", script])
        outcome, lines, seen = Outcome(), [], []
        (tmp_path / "events.jsonl").write_text("of the run before\n")
        run_stage("train", tmp_path / "events.jsonl", on_line or lines.append, seen.append, outcome)
        return outcome, lines, seen

    return run


FIRST, SECOND = (events.Failed(reason="other error", message=text).model_dump_json() for text in ("first", "second"))


def test_output_events_and_exit_code_of_a_stage(shell: Any) -> None:
    taken = events.DeviceTaken(device="cpu", at=time.time() - 5000).model_dump_json()
    script = f"""
    [ -e "${events.VARIABLE}" ] && echo "old events"
    echo "Running $GIVEN"
    echo "WARNING: Process 'x' with (Pid 1), in RWLock-file y had been killed" >&2
    echo '{taken}' >> ${events.VARIABLE}
    echo '{FIRST}' >> ${events.VARIABLE}
    sleep 0.1
    echo '{SECOND}' >> ${events.VARIABLE}
    echo "ERROR: failed to reproduce 'train': failed to run: x, exited with 5"
    exit 255
    """
    outcome, lines, seen = shell(script)
    assert lines == list(outcome.lines) == ["Running yes", lines[-1]]
    assert outcome.code == 5
    assert [event.kind for event in seen] == ["device_taken", "failed", "failed"]
    assert outcome.failure.message == "first"
    assert 0 < outcome.device_seconds <= outcome.seconds
    assert 0.1 <= outcome.seconds < 600
    assert not outcome.cached


@pytest.mark.parametrize(
    ("script", "code", "cached"),
    [
        ("echo \"Stage 'fetch' didn't change, skipping\"; echo Running", 0, True),
        ("echo \"Stage 'fetch' is cached - skipping run\"", 0, True),
        ("echo 'ERROR: failed to reproduce x: exited with 7'; exit 0", 0, False),
        ("exit 3", 3, False),
        ("kill -9 $$", -9, False),
    ],
)
def test_a_stage_without_events(shell: Any, script: str, code: int, cached: bool) -> None:
    outcome, _, seen = shell(script)
    assert (outcome.code, outcome.cached, outcome.device_seconds, seen) == (code, cached, 0.0, [])
    assert outcome.failure is None


def test_the_last_lines_of_a_long_log_are_kept(shell: Any) -> None:
    outcome, lines, _ = shell("for i in $(seq 200); do echo $i; done")
    assert lines == [str(i) for i in range(1, 201)]
    assert list(outcome.lines) == lines[-60:]


def test_an_interrupted_stage_saves_and_has_ended(shell: Any, tmp_path: Path) -> None:
    """The interruption reaches the flow; its stage, a child of DVC, gets SIGTERM and what it prints then is kept."""
    saves = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(1)))"
    program = f"{saves}; print('ready', flush=True); time.sleep(60)"
    (tmp_path / "stage.py").write_text(program)
    lines: list[str] = []

    def on_line(text: str) -> None:
        lines.append(text)
        raise KeyboardInterrupt

    outcome: list[Outcome] = []
    real = stage_process._end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_process, "_end", lambda process, *given: (outcome.append(given[1]), real(process, *given)))
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            shell(f"{sys.executable} -S {tmp_path}/stage.py; exit 1", on_line)
    assert time.monotonic() - began < 55, "the stage would sleep for 60 s"
    assert list(outcome[0].lines) == ["ready", "saved"]
    assert outcome[0].seconds > 0
    alive = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in alive if "stage.py" in " ".join(p.cmdline())]


def test_a_stage_that_does_not_end_is_killed(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_process, "SAVE_SECONDS", 0.1)

    def on_line(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shell("echo a; (trap '' TERM; while :; do sleep 0.05; done) & wait", on_line)
    deadline = time.monotonic() + 60
    while [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE and p.name() == "sh"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ({}, ["dvc", "repro", "--single-item", "train"]),
        ({"ARC_NODE": "0"}, ["dvc", "repro", "--single-item", "train"]),
        ({"ARC_DVC_PULL": "1"}, [sys.executable, "-m", "flows.cluster.stage", "train"]),
        ({"ARC_DVC_PULL": "1", "ARC_NODE": "1"}, [sys.executable, "-m", "tasks.train"]),
    ],
)
def test_the_command_of_a_stage(variables: dict[str, str], command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("ARC_")} | variables)
    assert stage_process._command("train") == command
    assert stage_process._command("select")[-1] == "select"
