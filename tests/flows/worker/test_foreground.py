"""`arc run` in the foreground: what it starts, with which server, and what it leaves when it ends."""

import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal

from flows.queue import several_nodes
from flows.runs import flow, interruption, snapshots
from flows.runs.request import Request
from flows.worker import foreground
from tasks.files.live import RUN_VARIABLE
from tests.conftest import ROOT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets.yaml").symlink_to(ROOT / "presets.yaml")
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path), "PREFECT_API_URL": "http://before"})
    return tmp_path


def request() -> Request:
    return Request(version="v3", size="tiny", dataset="aa1")


@pytest.mark.parametrize(("answers", "ours"), [(True, True), (True, False), (False, True)])
def test_the_flow_replaces_this_process_in_a_frozen_worktree(
    place: Path, monkeypatch: Any, capsys: Any, answers: bool, ours: bool
) -> None:
    ran: list[Any] = []
    (place / "tree").mkdir()
    (place / "tree" / "presets.yaml").symlink_to(ROOT / "presets.yaml")
    monkeypatch.setattr("flows.worker.foreground.places.tree", lambda: place)
    monkeypatch.setattr(snapshots, "freeze", lambda given, _: [snapshots.Snapshot("c" * 40, ("new.py",))])
    monkeypatch.setattr(snapshots, "create_worktree", lambda commit, name: ran.append((commit, name)) or place / "tree")
    for name, value in (("find", None), ("answers", answers), ("ours", ours), ("address", "http://ours/api")):
        monkeypatch.setattr(foreground, name, lambda value=value: value)
    execute = lambda _, command, variables: ran.append((command[1:], variables, Path.cwd()))  # noqa: E731
    monkeypatch.setattr(os, "execve", execute)
    foreground.run(request(), {"ARC_NODES": "2"})
    (commit, name), (command, variables, folder) = ran
    assert commit == "c" * 40
    assert name.startswith(f"now-{os.getpid()}-")
    assert command == ["-m", "flows.worker.foreground", request().model_dump_json()]
    assert (variables["ARC_COMMIT"], variables["ARC_NODES"], folder) == ("c" * 40, "2", place / "tree")
    assert variables.get("PREFECT_API_URL") == ("http://ours/api" if answers and ours else None)
    told = capsys.readouterr().err
    assert "warning: untracked" in told
    assert ("starts one for itself" in told) != (answers and ours)


@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        ("completed", None, None),
        ("failed", "FAILED", "train: NaN"),
        (KeyboardInterrupt(), "KILLED", "resumes it"),
        (TerminationSignal(15), "KILLED", "resumes it"),
    ],
)
def test_what_is_left_is_removed_and_told_however_it_ends(
    place: Path, monkeypatch: Any, end: Any, status: str | None, says: str | None
) -> None:
    told: list[Any] = []
    worktree = place / "now-1-2"
    worktree.mkdir()
    (worktree / "presets.yaml").symlink_to(ROOT / "presets.yaml")
    monkeypatch.chdir(worktree)
    os.environ[RUN_VARIABLE] = "r"

    class Flow:
        def with_options(self, flow_run_name: str) -> Any:
            assert flow_run_name == request().title
            return self

        def __call__(self, given: Request, return_state: bool) -> Any:
            assert (given, return_state) == (request(), True)
            if isinstance(end, BaseException):
                raise end
            return SimpleNamespace(is_completed=lambda: end == "completed", message="train: NaN")

    monkeypatch.setattr(flow, "experiment", Flow())
    monkeypatch.setattr("flows.worker.foreground.signal.signal", lambda *_: None)
    monkeypatch.setattr(several_nodes, "dismiss", lambda: told.append("dismissed"))
    monkeypatch.setattr(interruption, "publish", lambda *given: told.append(given))
    monkeypatch.setattr(snapshots, "remove", lambda name: told.append((name, Path.cwd())))
    if says:
        with pytest.raises(SystemExit, match=says):
            foreground.main(request().model_dump_json())
    else:
        foreground.main(request().model_dump_json())
    assert told[0] == "dismissed"
    assert told[-1] == ("now-1-2", place)
    assert [row[:3] for row in told[1:-1]] == ([("r", worktree, status)] if status else [])


def test_the_module_runs_the_request_that_it_is_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    done = SimpleNamespace(is_completed=lambda: True, message="")
    made = lambda given, return_state: seen.append((given, return_state)) or done  # noqa: E731
    monkeypatch.setattr(flow, "experiment", SimpleNamespace(with_options=lambda flow_run_name: made))
    monkeypatch.setattr(several_nodes, "dismiss", lambda: seen.append(signal.getsignal(signal.SIGTERM)))
    monkeypatch.setattr(snapshots, "remove", seen.append)
    monkeypatch.setattr(sys, "argv", ["foreground", request().model_dump_json(), "more"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        runpy.run_path(foreground.__file__, run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [(request(), True), signal.default_int_handler, place.name]


def test_nothing_is_warned_of_where_all_is_frozen(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (place / "tree").mkdir()
    monkeypatch.setattr("flows.worker.foreground.places.tree", lambda: place)
    monkeypatch.setattr(snapshots, "freeze", lambda given, _: [snapshots.Snapshot("c" * 40, ())])
    monkeypatch.setattr(snapshots, "create_worktree", lambda *_: place / "tree")
    for name in ("find", "answers", "ours", "address"):
        monkeypatch.setattr(foreground, name, lambda name=name: name)
    monkeypatch.setattr(os, "execve", lambda program, command, _: print(program == command[0] == sys.executable))
    foreground.run(request(), {})
    assert capsys.readouterr() == ("True\n", "")
