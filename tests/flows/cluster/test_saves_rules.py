"""Which saves of a training are shared, kept and forgotten, at a remote that is a folder."""

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc_objects.fs.local import LocalFileSystem

from flows.cluster.remote_store import RemoteStore
from flows.cluster.saves import Saves, Sharing


@pytest.fixture
def saves(place: Path) -> Any:
    """Makes the saves of a training in a clone's folder, at one remote."""
    store = object.__new__(RemoteStore)
    store.fs, store.path, store.local = LocalFileSystem(), str(place / "remote"), True
    (place / "remote").mkdir()

    def make(name: str, key: str = "key") -> Saves:
        (place / name / "candidates").mkdir(parents=True, exist_ok=True)
        return Saves(store, key, place / name)

    return make


def save(folder: Path, step: int, *candidates: int) -> None:
    """A state after `step` updates, and candidates."""
    content = f"state {step}".encode()
    for old in folder.glob("state-*"):
        old.unlink()
    (folder / f"state-{step:07d}-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    for number in candidates:
        (folder / "candidates" / f"step-{number:07d}.safetensors").write_text(f"candidate {number}")


def test_the_newest_save_reaches_the_other_machine_with_its_candidates(saves: Any, place: Path) -> None:
    a, b = saves("a"), saves("b")
    assert a.share() is None
    save(place / "a", 40, 20, 40, 60)
    assert a.share() == 40
    assert a.share() is None, "it is there already"
    [line] = b.fetch()
    assert line.startswith("got the shared save after update 40 from ")
    got = sorted(path.relative_to(place / "b").as_posix()[:23] for path in (place / "b").rglob("*") if path.is_file())
    assert got == ["candidates/step-0000020", "candidates/step-0000040", "state-0000040-" + got[2][14:]]
    assert list(b.fetch()) == [], "it is not newer"
    assert not (place / "a" / "sharing").exists()
    for step in (80, 120):
        save(place / "a", step)
        assert a.share() == step
    lists = sorted(path.name for path in (place / "remote").rglob("save-*"))
    assert lists == ["save-0000080.json", "save-0000120.json"], "two are kept"
    assert not list((place / "remote").rglob("state-0000040*"))
    [newest] = (place / "remote").rglob("state-0000120*")
    newest.write_text("damaged")
    first, second = saves("c").fetch()
    assert "is not used: " in first
    assert "is damaged" in first
    assert "after update 80" in second
    a.remove()
    assert list((place / "remote").rglob("*.json")) == []
    a.remove()


def test_only_trainings_that_nobody_continued_for_two_weeks_are_forgotten(saves: Any, place: Path, monkeypatch: Any):
    mine, old, fresh = saves("mine", "mine"), saves("old", "old"), saves("fresh", "fresh")
    real = time.time()
    for one, days in ((mine, 20), (old, 14.1), (fresh, 13.9)):
        monkeypatch.setattr("flows.cluster.saves.time", SimpleNamespace(time=lambda d=days: real - d * 86400))
        save(one.scratch, 40)
        one.share()
    monkeypatch.setattr("flows.cluster.saves.time", SimpleNamespace(time=lambda: real))
    mine.forget_abandoned()
    left = {path.parent.name for path in (place / "remote").rglob("save-*")}
    assert left == {"mine", "fresh"}


def test_sharing_keeps_its_distance_and_says_an_error_once(saves: Any, monkeypatch: Any) -> None:
    told, shared, clock = [], [], SimpleNamespace(now=100.0)
    one = saves("a")
    sharing = Sharing(one, 60.0, told.append)
    results: list[Any] = [None, OSError("full"), OSError("full"), 40, 80, 120]

    def share() -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        shared.append((result, clock.now))
        return result

    def wait(_: float) -> bool:
        clock.now += 30.0
        return len(results) < 2

    monkeypatch.setattr(one, "share", share)
    monkeypatch.setattr(one, "forget_abandoned", lambda: None)
    monkeypatch.setattr("flows.cluster.saves._be_nice", lambda: None)
    monkeypatch.setattr("flows.cluster.saves.time", SimpleNamespace(monotonic=lambda: clock.now, time=time.time))
    sharing.ended = SimpleNamespace(wait=wait, set=lambda: None)  # type: ignore[assignment]
    sharing.run()
    assert shared == [(None, 130.0), (40, 220.0), (80, 280.0)]
    assert told == ["the save is not shared: OSError: full"]
    monkeypatch.setattr(sharing, "join", lambda: None)
    sharing.last()
    assert shared[-1][0] == 120
