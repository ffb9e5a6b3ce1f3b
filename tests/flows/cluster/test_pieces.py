"""The pieces of a cluster one by one, fast: leases and saves, with server and remote made up."""

import hashlib
import json
import os
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from dvc_objects.fs.local import LocalFileSystem
from prefect.exceptions import ObjectAlreadyExists

from flows.cluster import lease, owners, settings
from flows.cluster.remote_store import RemoteStore
from flows.cluster.saves import Saves, Sharing
from flows.runs import process_identity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Variables:
    """Variables of Prefect's server, whose clock stands still; `ages` are seconds since their renewal."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.made = 0

    def put(self, name: str, value: Any, age: float) -> str:
        self.made += 1
        updated = datetime.fromtimestamp(NOW.timestamp() - age, UTC).isoformat()
        self.rows[name] = {"id": str(self.made), "name": name, "value": value, "updated": updated}
        return str(self.made)

    def create_variable(self, given: Any) -> Any:
        if given.name in self.rows:
            raise ObjectAlreadyExists(http_exc=None)
        return SimpleNamespace(id=self.put(given.name, given.value, 0.0))

    def request(self, method: str, path: str, path_params: Any = None, json: Any = None) -> Any:
        answer = SimpleNamespace(headers={"Date": format_datetime(NOW, usegmt=True)}, status_code=404)
        known = [row for row in self.rows.values() if path_params and row["id"] == path_params.get("id")]
        if method == "POST":
            answer.json = lambda: list(self.rows.values())
        elif method == "GET" and path_params["name"] in self.rows:
            answer.json = lambda: self.rows[path_params["name"]]
        elif method == "DELETE" and known:
            del self.rows[known[0]["name"]]
        elif method == "PATCH" and known:
            known[0]["value"] = json["value"]
        else:
            raise httpx.HTTPStatusError("missing", request=None, response=answer)
        return answer


def holder(machine: str, process: Any = None) -> str:
    return json.dumps({"machine": machine, "process": process})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path)})
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "ARC_SCRATCH", settings.SECRET):
        os.environ.pop(name, None)
    monkeypatch.setattr(owners, "machine", lambda: "here")
    return tmp_path


ME = process_identity.identity(os.getpid())


@pytest.mark.parametrize(
    ("machine", "process", "age", "waits"),
    [
        ("there", None, 59.0, True),
        ("there", None, 61.0, False),
        ("here", ME.model_dump() if ME else None, 0.0, True),
        ("here", {"process": 4194305, "boot": "x", "ticks": 1}, 0.0, False),
        ("here", {"process": "?"}, 0.0, True),
    ],
)
def test_a_lease_is_waited_for_unless_its_holder_is_dead(
    place: Path, monkeypatch: Any, machine: str, process: Any, age: float, waits: bool
) -> None:
    server, said = Variables(), []
    server.put("arc-stage-k", holder(machine, process), age)
    looks = iter([False, False, False, True])
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=lambda _: None))
    number = lease.take(server, "k", "train", "mine", said.append, lambda: next(looks))
    assert (number is None) == waits
    assert said == ([f"train waits: {machine} computes the same"] if waits else [])
    assert (server.rows["arc-stage-k"]["value"] == "mine") != waits


def test_a_lease_that_somebody_edited_or_that_is_gone_is_no_error(place: Path, monkeypatch: Any) -> None:
    server, said = Variables(), []
    server.put("arc-stage-k", "no JSON", 0.0)
    looks = iter([False, True])
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=lambda _: None))
    assert lease.take(server, "k", "train", "mine", said.append, lambda: next(looks)) is None
    assert said == ["train waits: an unknown machine computes the same"]
    lease._delete(server, "99")
    server.rows.clear()
    assert lease._read(server, "k") is None
    for name, age in (("arc-stage-old", 61.0), ("arc-stage-new", 59.0), ("other", 1e6)):
        server.put(name, "x", age)
    assert lease.forget_expired(server) == 1
    assert set(server.rows) == {"arc-stage-new", "other"}


def test_a_lease_is_renewed_and_given_back(place: Path, monkeypatch: Any) -> None:
    server, said = Variables(), []

    class Connection:
        def __enter__(self) -> Variables:
            return server

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(lease, "get_client", lambda sync_client: Connection())
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    with lease.held("k", "train", said.append, lambda: False) as mine:
        assert mine
        first = server.rows["arc-stage-k"]["value"]
        assert json.loads(first)["process"]["process"] == os.getpid()
        server.rows["arc-stage-k"]["value"] = "edited"
        deadline = time.monotonic() + 60
        while server.rows["arc-stage-k"]["value"] != first:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert server.rows == {}
    with lease.held("k", "train", said.append, lambda: True) as mine:
        assert not mine

    def away(sync_client: bool) -> Any:
        raise RuntimeError("away")

    monkeypatch.setattr(lease, "get_client", away)
    with lease.held("k", "train", said.append, lambda: False) as mine:
        assert mine
    assert said == ["train is computed without a lease, since the server does not answer: away"]


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
