"""What the flow takes from the output and the events of one stage."""

import os
from pathlib import Path

import pytest

from flows.runs import places
from flows.runs.stage_process import Outcome, run_stage
from tasks.common import events

FIRST, SECOND = (
    events.Failed(reason="out of GPU memory", message="the first GPU"),
    events.Failed(reason="other error", message="what followed"),
)
DVC = """#!/bin/sh
echo "Running stage 'train':"
sleep 0.8
echo "WARNING: Process 'x' with (Pid 1), in RWLock-file y had been killed"
echo "Stage 'fetch' didn't change, skipping"
echo "ERROR: failed to reproduce 'train': failed to run: python -m tasks.train, exited with 5"
exit 255
"""


@pytest.mark.slow
def test_silence_ends_no_stage_and_its_first_failure_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc").write_text(DVC)
    (tmp_path / "dvc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(places, "environment", dict)
    file, told, seen, outcome = tmp_path / "events.jsonl", [], [], Outcome()

    def on_line(text: str) -> None:
        told.append(text)
        if text.startswith("Running"):  # The stage has begun, and its events of the run before are gone.
            monkeypatch.setenv(events.VARIABLE, str(file))
            for failure in (FIRST, SECOND):
                events.emit(failure)

    run_stage("train", file, on_line, seen.append, outcome)
    assert [text.split(" ")[0] for text in told] == ["Running", "Stage", "ERROR:"]
    assert list(outcome.lines) == told
    assert outcome.failure == seen[0]
    assert [event.message for event in seen] == ["the first GPU", "what followed"]
    assert outcome.code == 5
    assert outcome.cached
    assert outcome.seconds >= 0.8
