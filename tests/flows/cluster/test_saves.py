"""Saves of a training at a DVC remote: whole ones only come back, damaged ones are named, few are kept."""

import hashlib
import json
import subprocess
import time
from pathlib import Path

import pytest

from flows.cluster import remote_store, saves
from flows.runs.places import FlowError
from model.storage import sealed
from tests.support.flows_lab import until

pytestmark = pytest.mark.slow
KEY = "0123abcd"


class Place:
    """A remote in a folder, and the scratch folders of two machines."""

    def __init__(self, folder: Path) -> None:
        self.remote = folder / "objects"
        self.remote.mkdir()
        for command in ("git init -q", "dvc init -q", f"dvc remote add -q -d shared {self.remote}"):
            subprocess.run(command.split(), cwd=folder, check=True)
        self.store = remote_store.RemoteStore()
        self.a, self.b = (self._machine(folder / name) for name in ("a", "b"))
        self.there = self.remote / saves.FOLDER / KEY

    def _machine(self, scratch: Path) -> saves.Saves:
        (scratch / "candidates").mkdir(parents=True)
        return saves.Saves(self.store, KEY, scratch)

    def save(self, step: int, machine: saves.Saves | None = None) -> Path:
        """A state as a training writes it, with one candidate every 10 updates."""
        scratch = (machine or self.a).scratch
        content = f"state {step}".encode() * 1000
        path = scratch / f"state-{step:07d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        path.write_bytes(content)
        for number in range(10, step + 1, 10):
            for ending in ("safetensors", "json"):
                (scratch / "candidates" / f"step-{number:07d}.{ending}").write_text(f"{ending} of {number}")
        return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def files(scratch: Path) -> dict[str, bytes]:
    return {str(path.relative_to(scratch)): path.read_bytes() for path in scratch.rglob("*") if path.is_file()}


def test_another_machine_gets_the_newest_save_with_its_candidates(place: Place) -> None:
    place.save(15)
    assert place.a.share() == 15
    assert place.a.share() is None, "it is there already"
    place.save(27)
    (place.a.scratch / "candidates" / "step-0000030.json").write_text("of a later update")
    (place.a.scratch / "candidates" / "step-0000020.json.part").write_text("half")
    assert place.a.share() == 27
    [said] = place.b.fetch()
    assert "after update 27" in said
    expected = files(place.a.scratch)
    for name in [name for name in expected if "15" in name or "30" in name or name.endswith(".part")]:
        del expected[name]
    assert files(place.b.scratch) == expected
    assert list(place.b.fetch()) == []


def test_a_machine_that_is_further_keeps_its_own(place: Place) -> None:
    place.save(15)
    place.a.share()
    place.save(18, place.b)
    assert list(place.b.fetch()) == []
    assert saves.step_of(saves.newest(place.b.scratch) or Path()) == 18


@pytest.mark.parametrize("what", ["state-0000027-*", "*-step-0000020.json", "save-0000027.json"])
def test_a_damaged_save_is_named_and_the_one_before_is_used(place: Place, what: str) -> None:
    for step in (15, 27):
        place.save(step)
        place.a.share()
    [path] = place.there.glob(what)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    damaged, used = place.b.fetch()
    assert "save-0000027.json is not used" in damaged
    assert "after update 15" in used
    assert [p.name.split("-")[1] for p in place.b.scratch.glob("state-*")] == ["0000015"]


def test_where_all_are_damaged_nothing_is_used(place: Place) -> None:
    place.save(15)
    place.a.share()
    for path in place.there.glob("state-*"):
        path.unlink()
    [said] = place.b.fetch()
    assert "is not used" in said
    assert saves.newest(place.b.scratch) is None


def test_a_list_that_names_files_elsewhere_is_refused(place: Place, tmp_path: Path) -> None:
    place.there.mkdir(parents=True)
    (place.there / "bad").write_text("bad")
    for name in ("../../evil", "candidates/../../evil", "/evil", "candidates/.bashrc"):
        value = sealed.seal({"step": 9, "at": time.time(), "files": {name: "bad"}})
        (place.there / "save-0000009.json").write_text(json.dumps(value))
        [said] = place.b.fetch()
        assert "no training writes" in said
    assert [path.name for path in tmp_path.rglob("*evil*")] == []


def test_two_saves_are_kept_and_none_after_the_training(place: Place) -> None:
    for step in (5, 15, 27):
        place.save(step)
        place.a.share()
    names = sorted(path.name for path in place.there.iterdir())
    assert [name for name in names if name.startswith("save-")] == ["save-0000015.json", "save-0000027.json"]
    assert len([name for name in names if name.startswith("state-")]) == 2
    assert not list(place.a.scratch.glob("sharing"))
    place.a.remove()
    place.a.remove()
    assert not place.there.exists()


def test_abandoned_trainings_are_forgotten(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.save(5)
    place.a.share()
    other = saves.Saves(place.store, "other", place.b.scratch)
    other.forget_abandoned()
    assert place.there.exists()
    later = time.time() + (saves.ABANDONED_DAYS + 1) * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    other.forget_abandoned()
    assert not list(place.there.glob("*"))


def test_sharing_keeps_its_distance_and_survives_errors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saves, "LOOK_SECONDS", 0.05)
    lines: list[str] = []
    thread = saves.Sharing(place.a, 1.0, lines.append)
    good = place.store.path
    place.a.folder = "/dev/null/nowhere"
    place.save(5)
    thread.start()
    until(lambda: lines, 5)
    assert "the save is not shared" in lines[0]
    place.a.folder = str(Path(good) / saves.FOLDER / KEY)
    until(lambda: list(place.there.glob("save-0000005.json")), 5)
    began = time.monotonic()
    place.save(6)
    until(lambda: list(place.there.glob("save-0000006.json")), 5, every=0.02)
    assert time.monotonic() - began > 0.6
    place.save(7)
    thread.last()
    assert list(place.there.glob("save-0000007.json"))
    assert len(lines) == 1


def test_a_clone_without_a_remote_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("git init -q", "dvc init -q"):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    with pytest.raises(FlowError, match="no remote"):
        remote_store.RemoteStore()
