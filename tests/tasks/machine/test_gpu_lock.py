"""The lock of a device in a folder that every user of the machine can write to."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.stage import StageError
from tasks.machine import gpu_lock
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "locks"
    monkeypatch.setenv("ARC_LOCKS", str(folder))
    monkeypatch.setenv("ARC_LOCK_CPU", "1")
    monkeypatch.chdir(tmp_path)
    yield folder
    for number in gpu_lock._held.values():
        os.close(number)
    gpu_lock._held.clear()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_users_can_lock_and_only_the_owner_deletes(locks: Path) -> None:
    before = os.umask(0o077)
    try:
        gpu_lock.take([CPU])
    finally:
        os.umask(before)
    assert mode(locks) == 0o1777
    assert mode(locks / "cpu.lock") == 0o666
    held = gpu_lock.holder(locks / "cpu.lock")
    assert held is not None
    assert held["process"] == os.getpid()
    assert f"process {os.getpid()}" in gpu_lock.describe(held)


def test_a_folder_of_an_earlier_version_is_made_sticky(locks: Path) -> None:
    locks.mkdir()
    locks.chmod(0o777)
    gpu_lock.take([CPU])
    assert mode(locks) == 0o1777


def test_a_folder_of_another_user_that_is_not_sticky_is_refused_and_left(locks: Path, monkeypatch) -> None:
    locks.mkdir()
    locks.chmod(0o777)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(StageError, match="is no folder in which only owners delete their files"):
        gpu_lock.folder()
    assert mode(locks) == 0o777


def test_the_folder_does_not_follow_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_lock.FOLDER == "/tmp/arc-diffusion-locks"
    monkeypatch.delenv("ARC_LOCKS")
    monkeypatch.setattr(gpu_lock, "FOLDER", str(Path.cwd() / "fixed"))
    monkeypatch.setenv("TMPDIR", str(Path.cwd() / "other"))
    assert gpu_lock.folder() == Path.cwd() / "fixed"


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hard link", "fifo", "folder"])
def test_what_is_no_plain_file_is_refused_and_left_as_it_is(locks: Path, tmp_path: Path, kind: str) -> None:
    locks.mkdir()
    victim, lock = tmp_path / "victim", locks / "cpu.lock"
    victim.write_text("precious")
    {
        "symlink": lambda: lock.symlink_to(victim),
        "dangling": lambda: lock.symlink_to(tmp_path / "new"),
        "hard link": lambda: lock.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[kind]()
    with pytest.raises(StageError, match=r"cpu\.lock.*(no plain file|cannot be opened)"):
        gpu_lock.take([CPU])
    assert victim.read_text() == "precious"
    assert mode(victim) != 0o666
    assert not (tmp_path / "new").exists()


def test_a_link_as_the_folder_is_refused(locks: Path, tmp_path: Path) -> None:
    locks.symlink_to(tmp_path)
    with pytest.raises(StageError, match="is no folder"):
        gpu_lock.take([CPU])


def test_a_file_that_lies_there_is_not_cut(locks: Path) -> None:
    locks.mkdir()
    text = b"x" * 100_000
    (locks / "cpu.lock").write_bytes(text)
    gpu_lock.take([CPU])
    left = (locks / "cpu.lock").read_bytes()
    assert len(left) == len(text)
    assert json.loads(left[: gpu_lock._RECORD_BYTES])["process"] == os.getpid()


def test_a_file_that_was_deleted_before_it_was_locked_does_not_count(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    deleted: list[int] = []

    def flock(number: int, operation: int) -> None:
        if not deleted:  # The other process ends, and its user cleans up, before ours gets the lock.
            (locks / "cpu.lock").unlink()
            deleted.append(number)
        lock(number, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(gpu_lock, "POLL_SECONDS", 0.0)
    gpu_lock.take([CPU])
    [number] = gpu_lock._held.values()
    assert os.fstat(number).st_ino == (locks / "cpu.lock").stat().st_ino


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["process", "runs", "folder", "since", "other"]), inner, max_size=4)
        ),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_record_holds_its_description_is_one_printable_line(record: bytes) -> None:
    assert gpu_lock.describe(gpu_lock._owner(record)).isprintable()


AS_OTHER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from tasks.machine import gpu_lock
os.setgid(65534), os.setgroups([]), os.setuid(65534)
os.umask(0o077)
if sys.argv[2] == "take":
    gpu_lock.take([torch.device("cpu")])
path = gpu_lock.folder() / "cpu.lock"
print((gpu_lock.holder(path) or {}).get("process"))
try:
    path.unlink()
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_second_user_sees_waits_for_and_takes_the_lock_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are closed to others.
        Path(folder).chmod(0o755)
        monkeypatch.setenv("ARC_LOCKS", f"{folder}/locks")
        take_turns()


def take_turns() -> None:
    gpu_lock.take([CPU])

    def other(what: str) -> list[str]:
        command = [sys.executable, "-c", AS_OTHER, str(ROOT), what]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert other("look") == [str(os.getpid()), "Operation not permitted"]
    os.close(gpu_lock._held.popitem()[1])
    [taken, process, refused] = other("take")
    assert taken == "device cpu taken"
    assert process.isdecimal()
    assert int(process) != os.getpid()
    assert refused == "Operation not permitted"


def test_a_second_call_keeps_the_device_that_is_held_although_an_earlier_one_is_free(tmp_path, monkeypatch):
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    monkeypatch.setattr(gpu_lock, "lock_file", lambda device: tmp_path / f"{device.index}.lock")
    assert gpu_lock.take([second]) == second
    assert gpu_lock.take([first, second]) == second
    assert not (tmp_path / "0.lock").exists()
