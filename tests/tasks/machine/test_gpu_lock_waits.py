"""Waiting for a lock: what is said of its owner, and what may be wrong with the files and folders of locks."""

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from tasks.common import events, paths
from tasks.common.stage import StageError
from tasks.machine import gpu_lock
from tests.conftest import experiment

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", index) for index in range(3)]
ELSEWHERE = "set ARC_LOCKS, for every user, to a folder of mode 1777"


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "locks"
    monkeypatch.setenv("ARC_LOCKS", str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_lock, "_held", {})
    properties = SimpleNamespace(get_device_properties=lambda device: SimpleNamespace(uuid=f"u{device.index}"))
    monkeypatch.setattr(torch, "cuda", properties)
    yield folder
    for number in gpu_lock._held.values():
        os.close(number)


class Other:
    """Another holder of a lock file: flock tells descriptors apart, whosever they are."""

    def __init__(self, path: Path, runs: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.file = path, path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.says(runs)

    def says(self, runs: str) -> None:
        self.path.write_text(json.dumps({"process": 7, "runs": runs, "folder": "/f", "since": "noon"}))


def described(runs: str) -> str:
    return f"held by {runs} (process 7 in /f) since noon"


def waiting(monkeypatch: pytest.MonkeyPatch, *steps: Any) -> list[float]:
    """Do a step at each wait; the seconds of the waits."""
    left, waits = list(steps), []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        left.pop(0)()

    monkeypatch.setattr(gpu_lock, "time", SimpleNamespace(sleep=sleep))
    return waits


def test_every_new_owner_of_a_device_is_told_once(locks: Path, monkeypatch: Any, capsys: Any) -> None:
    locks.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setenv(events.VARIABLE, "events.jsonl")
    first, second = Other(locks / "gpu-u0.lock", "a"), Other(locks / "gpu-u1.lock", "b")
    steps = (lambda: None, lambda: second.says("c"), second.file.close)
    waits = waiting(monkeypatch, *steps)
    assert gpu_lock.take(GPUS[:2]) == GPUS[1]
    assert capsys.readouterr().out.splitlines() == [
        f"waiting for device cuda:0: {described('a')}",
        f"waiting for device cuda:1: {described('b')}",
        f"waiting for device cuda:1: {described('c')}",
        "device cuda:1 taken",
    ]
    assert waits == [1.0] * 3
    assert gpu_lock.held() == {locks / "gpu-u1.lock"}
    assert [event.device for event in events.Reader(Path("events.jsonl")).new()] == ["cuda:1"]
    first.file.close()


def test_a_cpu_is_shared_unless_asked_otherwise(locks: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("ARC_LOCK_CPU", raising=False)
    assert gpu_lock.take([CPU]) == CPU
    assert (gpu_lock.held(), capsys.readouterr().out, locks.exists()) == (set(), "", False)
    monkeypatch.setenv("ARC_LOCK_CPU", "1")
    assert gpu_lock.take([CPU]) == CPU
    assert gpu_lock.held() == {locks / "cpu.lock"}
    assert capsys.readouterr().out == "device cpu taken\n"
    assert gpu_lock.take([CPU]) == CPU
    assert capsys.readouterr().out == "", "it is held already"


def test_all_devices_are_taken_in_their_order(locks: Path, capsys: Any) -> None:
    gpu_lock.take_all([GPUS[2], GPUS[0], GPUS[1]])
    assert capsys.readouterr().out.splitlines() == [f"device cuda:{i} taken" for i in (2, 0, 1)]
    assert gpu_lock.held() == {locks / f"gpu-u{i}.lock" for i in range(3)}
    assert not any(os.get_inheritable(number) for number in gpu_lock._held.values())
    gpu_lock.keep_across_exec()
    assert all(os.get_inheritable(number) for number in gpu_lock._held.values())


def test_a_file_is_waited_for_and_released(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    path = tmp_path / "key.lock"
    other = Other(path, "a")
    waits = waiting(monkeypatch, lambda: None, lambda: other.says("b"), other.file.close)
    gpu_lock.take_file(path, "the same training")
    says = [f"waiting for the same training: {described(runs)}" for runs in "ab"]
    assert capsys.readouterr().out.splitlines() == says
    assert waits == [1.0] * 3
    gpu_lock.take_file(path, "the same training")  # At once: it is held.
    found = gpu_lock.holder(path)
    assert found
    assert found["process"] == os.getpid()
    [number] = gpu_lock._held.values()
    gpu_lock.release_file(path)
    assert (gpu_lock.held(), path.exists()) == (set(), False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_lock_that_nobody_holds_has_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert gpu_lock.holder(path) is None
    Other(path, "a").file.close()
    assert gpu_lock.holder(path) is None
    other = Other(path, "a")
    owner = gpu_lock.holder(path)
    assert owner == {"process": 7, "runs": "a", "folder": "/f", "since": "noon"}
    path.write_text("{")
    assert gpu_lock.holder(path) == {"process": "?", "runs": "a stage that starts", "folder": "?", "since": "just now"}
    path.write_text('[{"process": 7}]')
    assert gpu_lock.describe(gpu_lock.holder(path) or {}) == (
        "held by a stage that starts (process ? in ?) since just now"
    )
    path.write_text('{"process": "7", "runs": "a\\u001bb\\n"}')
    assert gpu_lock.holder(path) == {"process": "?", "runs": "ab", "folder": "?", "since": "just now"}
    other.file.close()
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(StageError) as refused:
        gpu_lock.holder(link)
    assert str(refused.value) == f"{link}: {os.strerror(errno.ELOOP)}; {ELSEWHERE}"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARC_LOCKS", str(tmp_path / "file" / "locks"))
    with pytest.raises(StageError) as refused:
        gpu_lock.folder()
    assert str(refused.value) == f"{tmp_path}/file/locks: Not a directory; {ELSEWHERE}"
    monkeypatch.setenv("ARC_LOCKS", str(tmp_path / "file"))
    with pytest.raises(StageError) as refused:
        gpu_lock.folder()
    assert str(refused.value) == (f"{tmp_path}/file is no folder in which only owners delete their files; {ELSEWHERE}")
    monkeypatch.setenv("ARC_LOCKS", str(tmp_path / "new" / "locks"))
    assert gpu_lock.folder() == tmp_path / "new" / "locks", "with the folders around it"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_folder_into_which_no_other_user_writes_stays_as_it_is(locks: Path, mode: int) -> None:
    locks.mkdir()
    locks.chmod(mode)
    assert gpu_lock.folder() == locks
    assert locks.stat().st_mode & 0o7777 == mode


def test_a_file_that_was_replaced_before_it_was_locked_does_not_count(tmp_path: Path, monkeypatch: Any) -> None:
    path, lock = tmp_path / "a.lock", fcntl.flock
    replaced: list[Path] = []

    def flock(number: int, operation: int) -> None:
        if not replaced:  # The other process ends, its user cleans up, and a third makes a new file.
            replaced.append(path.rename(tmp_path / "old"))
            path.write_text("")
        lock(number, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    waits = waiting(monkeypatch, lambda: None)
    gpu_lock.take_file(path, "it")
    assert len(waits) == 1
    assert os.fstat(gpu_lock._held[path]).st_ino == path.stat().st_ino


def test_the_record_says_who_runs_what_where(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/tasks/predict.py", "x"])
    path = tmp_path / "a.lock"
    gpu_lock.take_file(path, "it")
    assert path.stat().st_size == 8192
    own = json.loads(path.read_text())
    assert own["runs"] == "stage predict of an unresolved experiment"
    assert (own["process"], own["folder"]) == (os.getpid(), str(tmp_path))
    (tmp_path / "data").mkdir()
    config = experiment(seed=6)
    for title, says in ((config.title, f"{config.title} seed 6"), ("t" * 400, "t" * (300 - len("stage predict of ")))):
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json") | {"title": title}))
        assert gpu_lock._self()["runs"] == f"stage predict of {says}"
    deep = tmp_path / ("a" * 200) / ("b" * 200) / "c"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert gpu_lock._self()["folder"] == str(deep)[-400:]


def test_a_lock_needs_no_record(tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    path = tmp_path / "a.lock"
    gpu_lock.take_file(path, "it")
    assert gpu_lock.held() == {path}
    assert gpu_lock.holder(path) == gpu_lock._UNKNOWN


def test_another_users_file_is_locked_as_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    path, user, opened = tmp_path / "a.lock", os.geteuid(), os.open
    path.write_text("")
    path.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    refused = {os.O_RDWR}

    def refusing(name: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_ACCMODE in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return opened(name, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    gpu_lock.take_file(path, "it")
    assert gpu_lock.held() == {path}
    assert path.stat().st_mode & 0o777 == 0o644
    with contextlib.closing(os.fdopen(opened(path, os.O_RDONLY))) as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    refused.add(os.O_RDONLY)
    with pytest.raises(StageError) as said:
        gpu_lock.take_file(tmp_path / "b.lock", "it")
    assert str(said.value) == (f"{tmp_path}/b.lock cannot be opened: Permission denied; remove it, or {ELSEWHERE}")
