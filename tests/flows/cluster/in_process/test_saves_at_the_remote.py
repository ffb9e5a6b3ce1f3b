"""Single files of shared saves: which go there, come from there, are refused, replaced and removed."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cluster import saves
from flows.cluster.saves import Saves, Sharing
from model.storage import sealed

Machine = Callable[[str], Saves]


@pytest.fixture
def machine(folder_store: Any, place: Path) -> Machine:
    """Makes a machine that trains `key`, with a scratch folder of its own."""

    def made(name: str) -> Saves:
        (place / name / "candidates").mkdir(parents=True, exist_ok=True)
        return Saves(folder_store, "key", place / name)

    return made


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: Path, step: int, text: str = "state") -> str:
    """Name of a state that a training saves."""
    name = f"state-{step:07d}-{digest(text)}.safetensors"
    (folder / name).write_text(text)
    return name


def candidate(folder: Path, name: str, text: str) -> str:
    """Name that a candidate has at the remote."""
    (folder / "candidates" / name).write_text(text)
    return f"{digest(text)}-{name}"


@pytest.fixture
def there(place: Path) -> Path:
    folder = place / "remote" / "arc-saves" / "key"
    folder.mkdir(parents=True)
    return folder


def put(there: Path, step: int, files: dict[str, str], **more: Any) -> None:
    """A list of files at the remote."""
    content = sealed.seal({"step": step, "files": files, "at": time.time(), **more})
    (there / f"save-{step:07d}.json").write_text(json.dumps(content))


def test_what_is_there_is_not_uploaded_again(machine: Machine, folder_store: Any, there: Path, monkeypatch: Any):
    a = machine("a")
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(folder_store, "upload", lambda file, path: sent.append((file.name, Path(path).name)))
    first, second = (candidate(a.scratch, f"step-00000{step}.json", str(step)) for step in (10, 20))
    for name in ("step-0000020.json.part", "notes.txt", "step-0000021.json"):
        candidate(a.scratch, name, "x")
    (there / first).touch()
    state = save(a.scratch, 20)
    (a.scratch / "sharing").touch()
    assert a.share() == 20
    assert sent == [("step-0000020.json", second), ("sharing", state)]
    assert not (a.scratch / "sharing").exists()
    content = sealed.check(json.loads((there / "save-0000020.json").read_text()), "x")
    names = {state: state, "candidates/step-0000010.json": first, "candidates/step-0000020.json": second}
    assert content["files"] == names
    assert content["step"] == 20
    assert abs(content["at"] - time.time()) < 60
    for name in (second, state):
        (there / name).touch()
    sent.clear()
    assert machine("a").share() == 20
    assert sent == []


def test_a_state_after_the_first_update_is_shared(machine: Machine, there: Path) -> None:
    a = machine("a")
    for step in (0, 1, 2):
        save(a.scratch, step)
        assert a.share() == step
        assert a.share() is None


def test_an_upload_that_is_cut_off_leaves_no_list_and_no_link(machine: Machine, folder_store: Any, there: Path):
    a = machine("a")
    save(a.scratch, 20)

    def cut_off(file: Path, path: str) -> None:
        raise OSError(f"cut off: {file.read_text()}")

    folder_store.upload = cut_off
    for _ in range(2):
        with pytest.raises(OSError, match="cut off: state"):
            a.share()
        assert list(there.iterdir()) == []
        assert sorted(path.name[:6] for path in a.scratch.iterdir()) == ["candid", "state-"]


@pytest.mark.parametrize(
    ("local", "remote"),
    [
        ("state-0000009.safetensors", "x"),
        (f"state-0000009-{'0' * 63}.safetensors", "x"),
        ("step-0000009.json", "x"),
        ("other/step-0000009.json", "x"),
        ("candidates/x/step-0000009.json", "x"),
        ("candidates/step-0000009.json.part", "x"),
        ("candidates/step-000009.json", "x"),
        ("candidates/step-0000009.json", "../x"),
        (f"state-0000009-{'0' * 64}.safetensors", "a/x"),
    ],
)
def test_a_list_that_names_what_no_training_writes_is_refused(
    machine: Machine, there: Path, local: str, remote: str
) -> None:
    b = machine("b")
    put(there, 9, {local: remote})
    [line] = b.fetch()
    path = there / "save-0000009.json"
    assert line == f"the shared save {path} is not used: it names a file {local!r}, which no training writes"
    assert [path.name for path in b.scratch.rglob("*")] == ["candidates"]


def test_a_save_is_fetched_where_it_is_newer_and_the_state_comes_last(
    machine: Machine, folder_store: Any, there: Path, monkeypatch: Any
) -> None:
    b = machine("b")
    names = {}
    for step in (1, 2):
        name = save(there, step, f"state {step}")
        names[name] = name
        names[f"candidates/step-000000{step}.json"] = remote = f"{digest(str(step))}-step-000000{step}.json"
        (there / remote).write_text(str(step))
    put(there, 0, names)
    assert list(b.fetch()) == [], "nothing was trained"
    got: list[str] = []
    get_file = folder_store.fs.get_file

    def noting(source: str, target: str) -> None:
        got.append(Path(source).name)
        assert Path(target).name.endswith(".part")
        get_file(source, target)

    monkeypatch.setattr(folder_store.fs, "get_file", noting)
    (b.scratch / "candidates" / "step-0000001.json").write_text("1")
    (b.scratch / "candidates" / "step-0000002.json").write_text("another")
    put(there, 1, names)
    assert list(b.fetch()) == [f"got the shared save after update 1 from {there}"]
    assert got == [names["candidates/step-0000002.json"], *(name for name in names if name.startswith("state"))]
    assert (b.scratch / "candidates" / "step-0000002.json").read_text() == "2"
    assert not list(b.scratch.rglob("*.part"))
    put(there, 2, names)
    assert list(b.fetch()) == [], "it has that update"


def test_a_damaged_or_missing_file_is_named_and_nothing_of_it_stays(machine: Machine, there: Path) -> None:
    b = machine("b")
    good = save(there, 7, "good")
    put(there, 7, {good: good})
    bad = save(there, 8, "bad")
    (there / bad).write_text("worse")
    put(there, 8, {bad: bad})
    put(there, 9, {f"state-0000009-{'0' * 64}.safetensors": "missing"})
    first, second, third = b.fetch()
    assert first.startswith(f"the shared save {there}/save-0000009.json is not used: ")
    assert "missing" in first
    assert second == (
        f"the shared save {there}/save-0000008.json is not used: {bad} is damaged: its content is not what was saved"
    )
    assert third == f"got the shared save after update 7 from {there}"
    assert [path.name for path in b.scratch.glob("state*")] == [good]


@pytest.mark.parametrize("damage", ["no JSON", "[1]", '{"files": {}}', "\u00e9"])
def test_a_damaged_list_is_named_and_removed_and_counts_for_nothing(machine: Machine, there: Path, damage: str) -> None:
    a = machine("a")
    for step in (5, 15):
        save(a.scratch, step, f"state {step}")
        assert a.share() == step
    damaged = there / "save-0000020.json"
    damaged.write_text(damage)
    first, second = machine("b").fetch()
    assert first.startswith(f"the shared save {damaged} is not used: {damaged}")
    assert second.startswith("got the shared save after update 15")
    a.forget_abandoned()
    assert damaged.exists()
    save(a.scratch, 27, "state 27")
    assert a.share() == 27
    assert sorted(path.name[:13] for path in there.iterdir()) == [
        *("save-0000015.", "save-0000027."),
        *("state-0000015", "state-0000027"),
    ]


def test_saves_are_removed_with_their_folder_where_it_is_one(machine: Machine, folder_store: Any, there: Path) -> None:
    a = machine("a")
    save(a.scratch, 5)
    a.share()
    folder_store.local = False
    a.remove()
    assert list(there.iterdir()) == []
    a.remove()
    folder_store.local = True
    a.remove()
    assert not there.exists()
    a.remove()


def test_of_a_training_the_last_save_counts_and_damaged_ones_do_not(
    machine: Machine, place: Path, monkeypatch: Any
) -> None:
    now = time.time()
    old, new = now - 14 * 86400 - 0.5, now - 14 * 86400
    monkeypatch.setattr(saves, "time", SimpleNamespace(time=lambda: now))
    folders = {name: place / "remote" / "arc-saves" / name for name in ("gone", "kept", "odd", "key")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        put(folder, 1, {}, at=old)
        (folder / "state").touch()
    put(folders["kept"], 2, {}, at=new)
    put(folders["gone"], 2, {}, at=old - 86400)
    (folders["gone"] / "save-0000003.json").write_text("[1]")
    (folders["odd"] / "save-0000001.json").write_text("{}")
    machine("a").forget_abandoned()
    left = {name: len(list(folder.iterdir())) for name, folder in folders.items()}
    assert left == {"gone": 0, "kept": 3, "odd": 2, "key": 2}


def test_a_thread_that_shares_gives_way_to_the_training(monkeypatch: Any) -> None:
    set_to: list[tuple[int, int, int]] = []
    monkeypatch.setattr("flows.cluster.saves.os.setpriority", lambda *given: set_to.append(given))
    saves._be_nice()
    assert set_to == [(os.PRIO_PROCESS, threading.get_native_id(), 10)]
    monkeypatch.delattr("flows.cluster.saves.os.setpriority")
    saves._be_nice()


def test_it_looks_every_two_seconds_and_says_each_error_once(machine: Machine, monkeypatch: Any) -> None:
    told: list[str] = []
    looks: list[float] = []
    errors = [ValueError("one"), OSError("two\nlines"), OSError("two\nlines"), ValueError("one")]
    sharing = Sharing(machine("a"), 0.0, told.append)

    def wait(seconds: float) -> bool:
        looks.append(seconds)
        return not errors

    def share() -> None:
        raise errors.pop(0)

    monkeypatch.setattr(saves, "_be_nice", lambda: None)
    monkeypatch.setattr(sharing.saves, "share", share)
    monkeypatch.setattr(sharing, "ended", SimpleNamespace(wait=wait))
    assert sharing.daemon is True
    sharing.run()
    assert looks == [2.0] * 5
    one, two = "the save is not shared: ValueError: one", "the save is not shared: OSError: two lines"
    assert told == [one, two, one]
