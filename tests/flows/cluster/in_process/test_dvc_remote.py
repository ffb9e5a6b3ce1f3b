"""What is asked of DVC in other processes, which are small scripts here, and what such a process does."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc import cli
from dvc_objects.fs.local import LocalFileSystem

from flows.cluster import dvc_remote, remote_store
from flows.runs.places import FlowError


@pytest.mark.parametrize(
    ("script", "known"),
    [("echo shared", True), ("echo ' '", False), ("exit 251", False), ("echo shared; exit 1", False), ("", False)],
)
def test_a_clone_has_a_remote_where_dvc_names_a_default_one(
    program: Any, asked: Any, place: Path, script: str, known: bool
) -> None:
    program("dvc", script)
    (place / "clone").mkdir()
    assert dvc_remote.configured(place / "clone") is known
    assert asked() == [f"{place}/clone config core.remote"]


def test_the_time_between_saves_is_named_in_its_error_and_may_be_missing(place: Path) -> None:
    os.environ.pop(dvc_remote.SAVES, None)
    assert dvc_remote.save_seconds() is None
    os.environ[dvc_remote.SAVES] = ""
    assert dvc_remote.save_seconds() is None
    os.environ[dvc_remote.SAVES] = "0.25"
    assert dvc_remote.save_seconds() == 15.0
    assert dvc_remote.minutes("999999") == 999999.0
    with pytest.raises(FlowError) as refused:
        dvc_remote.minutes("x" * 41)
    wanted = f"the minutes between two shared saves are '{'x' * 40}'; allowed is a number above 0"
    assert str(refused.value) == wanted


def test_pushes_and_checks_are_processes_in_the_right_folder(program: Any, asked: Any, place: Path) -> None:
    program("python", f'[ "$ARC_HOME" = {place} ] || exit 9')
    (place / "worktree").mkdir()
    dvc_remote.push(place / "worktree")
    dvc_remote.check("s3://bucket")
    assert asked() == [
        f"{place}/worktree -m flows.cluster.dvc_remote push",
        f"{place} -m flows.cluster.dvc_remote check s3://bucket",
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo out; echo one >&2; echo two >&2; echo ' ' >&2; exit 1", "two"),
        ("echo one; echo two; echo; exit 2", "two"),
        ("echo ' ' >&2; echo out; exit 3", "3"),
        ("exit 4", "4"),
    ],
)
def test_the_last_line_of_a_process_that_fails_is_its_error(program: Any, script: str, message: str) -> None:
    program("python", script)
    with pytest.raises(FlowError) as failed:
        dvc_remote.check("")
    assert str(failed.value) == f"DVC's remote: {message}"


@pytest.fixture
def silent(place: Path, monkeypatch: Any) -> list[tuple[str, float]]:
    """No process answers; the commands that were started and the seconds that were waited for them."""
    waited: list[tuple[str, float]] = []

    def run(command: list[str], timeout: float, **_: Any) -> None:
        waited.append((command[-1], timeout))
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    return waited


def test_a_remote_that_does_not_answer_is_away(silent: list[tuple[str, float]], place: Path, monkeypatch: Any) -> None:
    with pytest.raises(FlowError, match=r"^DVC's remote: no answer within 3600 s$"):
        dvc_remote.push(place)
    monkeypatch.setattr(dvc_remote, "_folder", lambda: "")
    assert dvc_remote.away() == "DVC's remote: no answer within 60 s"
    monkeypatch.setattr(dvc_remote, "_folder", lambda: "/mnt/x")
    assert dvc_remote.away() == "DVC's remote: no answer from /mnt/x within 60 s"
    assert silent == [("push", 3600.0), ("away", 60.0), ("/mnt/x", 60.0)]


def test_a_folder_is_looked_at_without_dvc_and_any_other_remote_with_it(
    program: Any, asked: Any, place: Path, monkeypatch: Any
) -> None:
    program("python", "exit 0")
    folder = place / "objects"
    monkeypatch.setattr(dvc_remote, "_folder", lambda: str(folder))
    reason = f"DVC's remote: {folder} is no folder; make or mount it"
    assert dvc_remote.away() == reason
    folder.touch()
    assert dvc_remote.away() == reason
    folder.unlink()
    folder.mkdir()
    assert dvc_remote.away() == ""
    assert asked() == []
    monkeypatch.setattr(dvc_remote, "_folder", lambda: "")
    assert dvc_remote.away() == ""
    assert asked() == [f"{place} -m flows.cluster.dvc_remote away"]
    program("python", "echo 'bucket: no key' >&2; exit 1")
    assert dvc_remote.away() == "DVC's remote: bucket: no key"


@pytest.mark.parametrize(
    ("url", "folder"), [("/mnt/objects", "/mnt/objects"), ("s3://bucket/x", ""), ("../objects", ""), ("", "")]
)
def test_the_folder_of_the_default_remote_is_its_absolute_path(
    program: Any, asked: Any, place: Path, url: str, folder: str
) -> None:
    program("dvc", f'case "$2" in core.remote) echo shared;; remote.shared.url) echo "{url}";; *) exit 251;; esac')
    assert dvc_remote._folder.__wrapped__() == folder
    assert asked() == [f"{place} config core.remote", f"{place} config remote.shared.url"]


def test_the_process_checks_a_remote_by_a_file_that_it_removes(
    clone: Callable[[str], Path], place: Path, monkeypatch: Any
) -> None:
    clone("a")
    (place / "new").mkdir()
    written: list[tuple[str, bytes]] = []
    remove = LocalFileSystem.remove

    def noting(self: Any, path: str) -> None:
        written.append((path, Path(path).read_bytes()))
        remove(self, path)

    monkeypatch.setattr(LocalFileSystem, "remove", noting)
    dvc_remote.main("check")
    dvc_remote.main("check", f"{place}/new")
    for (path, content), name in zip(written, ("objects", "new"), strict=True):
        assert re.fullmatch(rf"{place}/{name}/arc-check-[0-9a-f]{{32}}", path)
        assert content == b"check"
    dvc_remote.main("away")
    assert len(written) == 2, "to read it needs no file"
    assert list((place / "objects").iterdir()) == list((place / "new").iterdir()) == []


def test_a_remote_that_does_not_list_its_folder_is_made_by_the_check(place: Path, monkeypatch: Any) -> None:
    """In a bucket nothing was written to yet."""
    made = object.__new__(remote_store.RemoteStore)
    made.fs, made.path, made.local = LocalFileSystem(), f"{place}/bucket/x", False
    monkeypatch.setattr(remote_store, "RemoteStore", lambda name, url: made if (name, url) == ("shared", "u") else None)
    dvc_remote.main("check", "u")
    assert list((place / "bucket" / "x").iterdir()) == []


def test_the_process_pushes_and_ends_with_the_reason_where_it_cannot(
    clone: Callable[[str], Path], place: Path, monkeypatch: Any
) -> None:
    clone("a")
    assert cli.main(["repro", "-q", "count"]) == 0
    monkeypatch.setattr(LocalFileSystem, "pipe_file", None)  # Nothing is checked.
    dvc_remote.main("push")
    kinds = {path.relative_to(place / "objects").parts[0] for path in (place / "objects").rglob("*") if path.is_file()}
    assert kinds == {"files", "runs"}
    (place / "objects").rename(place / "away")
    reason = f"{place}/objects is no folder; make or mount it"
    for what, end in (("push", f"DVC's remote: {reason}"), ("away", reason), ("check", reason)):
        with pytest.raises(SystemExit) as ended:
            dvc_remote.main(what)
        assert ended.value.code == end
    Path(".dvc/config").write_text("[core]\n    remote = unknown\n")
    with pytest.raises(SystemExit) as ended:
        dvc_remote.main("away")
    assert ended.value.code == "DVC's remote: config file error: remote 'unknown' doesn't exist"


def test_as_a_command_it_takes_what_to_do_and_an_address(place: Path, monkeypatch: Any) -> None:
    def refuse(name: str, url: str) -> None:
        raise FlowError(f"{name} at {url or 'its place'}")

    monkeypatch.setattr(remote_store, "RemoteStore", refuse)
    for arguments, end in ((["away"], "shared at its place"), (["check", "/x"], "shared at /x")):
        monkeypatch.setattr(sys, "argv", ["dvc_remote", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(dvc_remote.__file__, run_name="__main__")
        assert ended.value.code == end
