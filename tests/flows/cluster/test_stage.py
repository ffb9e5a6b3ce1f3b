"""One stage over a shared DVC remote: taken from there, waited for, computed once; no Prefect server answers here."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cluster import dvc_remote
from flows.runs import places
from flows.runs.stage_process import Outcome, run_stage
from tests.support.flows_lab import until
from tests.support.shared_stage import COUNT, Machines

pytestmark = pytest.mark.slow


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def test_what_one_machine_computed_the_next_one_takes(machines: Machines) -> None:
    a, b, c = machines.clone("a"), machines.clone("b"), machines.clone("c", given="2")
    assert "computed without a lease, since the server does not answer" in machines.run(a)
    assert "is cached" in machines.run(b)
    assert (b / "counted.txt").read_text() == "1"
    assert machines.computed() == 1
    machines.run(c)
    assert (c / "counted.txt").read_text() == "2"
    assert machines.computed() == 2
    # Of the run-cache, only the entry of the stage itself has come.
    assert len(list((b / ".dvc" / "cache" / "runs").glob("*/*"))) == 1


def test_a_stage_that_is_taken_counts_as_cached(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = machines.clone("a"), machines.clone("b"), machines.clone("c")
    for name, text in machines.environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv(dvc_remote.PULL, "1")
    monkeypatch.setattr(places, "environment", dict)
    # C's commit has the lock already, as after a result that was merged, and DVC only pulls the files.
    cached = []
    for clone in (a, b, c):
        monkeypatch.chdir(clone)
        outcome = Outcome()
        run_stage("count", clone / "events.jsonl", print, print, outcome)
        assert outcome.code == 0
        assert (clone / "counted.txt").read_text() == "1"
        cached.append(outcome.cached)
        if clone != c:
            shutil.copy(clone / "dvc.lock", c)
    assert cached == [False, True, True]
    assert machines.computed() == 1


def test_a_stage_waits_while_the_remote_is_away(machines: Machines) -> None:
    a = machines.clone("a")
    away = machines.remote.rename(machines.folder / "away")
    process = machines.start(a)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("count waits, since DVC's remote is away: ")
    assert str(machines.remote) in line
    time.sleep(1)
    assert process.poll() is None
    assert machines.computed() == 0
    away.rename(machines.remote)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "goes on" in text
    assert machines.computed() == 1
    assert list(machines.remote.glob("files/md5/*/*"))


def test_a_failed_stage_fails_although_the_remote_went_away(machines: Machines) -> None:
    a = machines.clone("a")
    (a / "count.py").write_text(f"import shutil, sys\nshutil.rmtree({str(machines.remote)!r})\nsys.exit(7)\n")
    assert "exited with 7" in machines.run(a, code=255)


def test_a_stage_whose_remote_went_away_is_done_and_shared_later(machines: Machines) -> None:
    a = machines.clone("a")
    (a / "count.py").write_text(f"{COUNT}\nimport shutil\nshutil.rmtree({str(machines.remote)!r})\n")
    assert "count is not shared yet" in machines.run(a)
    assert not machines.remote.exists(), "a folder that is not mounted must not be made"
    machines.remote.mkdir()
    done = subprocess.run([sys.executable, "-m", "flows.cluster.dvc_remote", "push"], cwd=a, env=machines.environment)
    assert done.returncode == 0
    assert list(machines.remote.glob("runs/*/*/*"))


def test_a_stage_that_waits_ends_at_once_when_it_is_told_to(machines: Machines) -> None:
    a = machines.clone("a")
    shutil.rmtree(machines.remote)
    process = machines.start(a)
    assert process.stdout
    process.stdout.readline()
    process.terminate()
    until(lambda: process.poll() is not None, 3)
