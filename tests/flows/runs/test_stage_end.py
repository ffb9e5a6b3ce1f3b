"""How a stage is ended, with processes and a clock that are made up, and what is read of its output."""

import os
import queue
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from flows.runs import places, stage_process
from flows.runs.stage_process import Outcome


class Member:
    """A process of the stage."""

    def __init__(self, gone: bool = False) -> None:
        self.gone = gone
        self.got: list[int] = []

    def send_signal(self, number: int) -> None:
        self.got.append(number)
        if self.gone:
            raise psutil.NoSuchProcess(1)


def ended(
    monkeypatch: pytest.MonkeyPatch, members: Any, said: list[str | None]
) -> tuple[list[str], Outcome, list[Any]]:
    """What DVC's own process was told, the outcome, and how long each wait for a line might have taken."""
    told: list[str] = []
    waits: list[float] = []
    process: Any = SimpleNamespace(pid=7)
    for name in ("terminate", "kill", "wait"):
        setattr(process, name, lambda name=name: told.append(name))
    clock = SimpleNamespace(now=100.0)

    def children(recursive: bool) -> list[Any]:
        assert recursive
        if members is None:
            raise psutil.NoSuchProcess(7)
        return list(members)

    def following(lines: Any, seconds: float) -> str | None:
        waits.append(seconds)
        clock.now += seconds
        return said.pop(0) if said else ""

    monkeypatch.setattr(psutil, "Process", lambda pid: SimpleNamespace(children=children) if pid == 7 else None)
    monkeypatch.setattr(stage_process, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(stage_process, "_next", following)
    outcome = Outcome()
    stage_process._end(process, queue.SimpleQueue(), outcome)
    return told, outcome, waits


@pytest.mark.parametrize("members", [None, ()])
def test_a_stage_without_children_has_nothing_to_save(monkeypatch: pytest.MonkeyPatch, members: Any) -> None:
    told, outcome, waits = ended(monkeypatch, members, ["first", "", "second", None, "too late"])
    assert told == ["terminate", "kill", "wait"]
    assert list(outcome.lines) == ["first", "second"]
    assert waits == [1.0] * 4


def test_the_children_are_asked_first_and_killed_after_28_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Member(), Member(gone=True), Member()]
    told, outcome, waits = ended(monkeypatch, members, [])
    assert [member.got for member in members] == [[signal.SIGTERM, signal.SIGKILL]] * 3
    assert told == ["kill", "wait"], "DVC itself ends after its stage"
    assert waits == [1.0] * 28
    assert list(outcome.lines) == []


def test_the_last_wait_is_as_long_as_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_process, "SAVE_SECONDS", 1.25)
    assert ended(monkeypatch, (), [])[2] == [1.0, 0.25]


def test_a_line_its_absence_and_the_end() -> None:
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert stage_process._next(lines, 0.001) == ""
    for line in ("a", None):
        lines.put(line)
    assert [stage_process._next(lines, 60.0) for _ in range(2)] == ["a", None]


def test_a_stage_reads_nothing_and_its_last_exit_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is at its terminal; its output may hold any byte, and its folder no events yet."""
    script = r"""
    cat
    printf 'a\377b  \n\n'
    while [ ! -e seen ]; do sleep 0.01; done
    echo "To track the changes with git, run:"
    echo "	git add dvc.lock"
    echo "ERROR: failed to reproduce 'a': it exited with 3"
    echo "ERROR: failed to reproduce 'b': it exited with -15"
    exit 1
    """
    monkeypatch.setattr(stage_process, "_command", lambda _: ["sh", "-c", script])
    monkeypatch.setattr(stage_process, "POLL_SECONDS", 60.0)
    monkeypatch.setattr(places, "environment", lambda: {"PATH": os.environ["PATH"]})
    monkeypatch.chdir(tmp_path)
    before, readers = set(threading.enumerate()), []
    lines: list[str] = []

    def on_line(text: str) -> None:
        lines.append(text)
        if not (tmp_path / "seen").exists():
            readers.extend(thread.daemon for thread in set(threading.enumerate()) - before)
            (tmp_path / "seen").touch()

    outcome, began = Outcome(), time.monotonic()
    stage_process.run_stage("train", tmp_path / "none.jsonl", on_line, lambda _: None, outcome)
    assert readers == [True], "a flow that ends does not wait for its reader"
    assert time.monotonic() - began < 50
    assert lines[0] == "a�b"
    assert [line.split(" ")[0] for line in lines] == ["a�b", "ERROR:", "ERROR:"]
    assert (outcome.code, outcome.device_seconds, outcome.failure) == (-15, 0.0, None)
    assert 0 < outcome.seconds < 50


def test_an_outcome_begins_with_nothing() -> None:
    one = Outcome()
    assert (one.code, one.failure, one.cached, one.seconds, one.device_seconds) == (0, None, False, 0.0, 0.0)
    assert (list(one.lines), one.lines.maxlen) == ([], 60)
    assert one.lines is not Outcome().lines


@pytest.mark.parametrize(
    ("line", "cached"),
    [
        ("Stage 'a' didn't change, skipping", True),
        ("Stage 'a' is cached - skipping run, checking out outputs", True),
        ("Data and pipelines are up to date.", True),
        ("Running stage 'a':", False),
        ("The stage 'a' is cached", False),
    ],
)
def test_what_dvc_says_of_a_stage_that_did_not_run(line: str, cached: bool) -> None:
    assert bool(stage_process.CACHED.match(line)) == cached
