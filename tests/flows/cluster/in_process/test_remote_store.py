"""DVC's remote through DVC's own objects, on a folder: what goes there, in which order, and what comes back."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc import cli
from dvc.stage.cache import StageCache

from flows.cluster import remote_store
from flows.cluster.remote_store import RemoteStore
from flows.runs.places import FlowError

Clone = Callable[[str], Path]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def stored(text: str) -> str:
    """Where DVC stores a file of this text."""
    digest = hashlib.md5(text.encode()).hexdigest()
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def test_what_one_clone_pushes_another_one_takes(clone: Clone, place: Path, capsys: Any) -> None:
    clone("a")
    store = RemoteStore()
    key = store.key("count")
    assert len(key) == 64
    assert not store.run_is_here(key)
    assert not store.fetch_run(key)
    assert cli.main(["repro", "-q", "other"]) == 0
    store = RemoteStore()
    store.push("count")
    assert store.run_is_here(key)
    entries = files(place / "objects" / "runs")
    assert [entry.split("/")[:2] for entry in entries] == [[key[:2], key]]
    assert files(place / "objects" / "files") == [stored("1").removeprefix("files/")]

    clone("b")
    store = RemoteStore()
    assert store.key("count") == key
    assert store.fetch_run("f" * 64) is False
    assert store.fetch_run(key) is True
    assert store.run_is_here(key)
    assert files(Path(".dvc/cache/runs")) == entries
    kept = Path(".dvc/cache/runs", entries[0])
    kept.write_text("as it is here")
    assert store.fetch_run(key) is True
    assert kept.read_text() == "as it is here", "what is here is not copied again"
    kept.unlink()
    store.pull_one_run(key)
    assert cli.main(["repro", "-q", "--single-item", "--pull", "count"]) == 0
    assert Path("counted.txt").read_text() == "1"
    assert (place / "computed").read_text() == "computed\n", "once by both"
    Path("given.txt").write_text("2")
    assert RemoteStore().key("count") != key


def test_all_stages_are_pushed_where_none_is_named(clone: Clone, place: Path) -> None:
    clone("a")
    assert cli.main(["repro", "-q"]) == 0
    store = RemoteStore()
    store.push()
    objects = files(place / "objects" / "files")
    assert objects == sorted(stored(text).removeprefix("files/") for text in ("1", "other", "always\n"))
    runs = files(place / "objects" / "runs")
    keys = {store.key(name) for name in ("count", "other")}
    assert {run.split("/")[1] for run in runs} == keys
    assert len(runs) == 2
    for run in runs:
        (place / "objects" / "runs" / run).write_text("as it is there")
    store.push()
    assert {(place / "objects" / "runs" / run).read_text() for run in runs} == {"as it is there"}
    assert store.key("always") == "", "DVC does not cache what depends on nothing"


def test_the_objects_are_there_before_the_entry_that_names_them(clone: Clone, place: Path, monkeypatch: Any) -> None:
    clone("a")
    assert cli.main(["repro", "-q", "count"]) == 0
    uploaded = []

    def upload(self: RemoteStore, file: Path, path: str) -> None:
        uploaded.append((file.read_bytes(), path, files(place / "objects")))

    monkeypatch.setattr(RemoteStore, "upload", upload)
    store = RemoteStore()
    store.push("count")
    [(content, path, before)] = uploaded
    key = store.key("count")
    assert path.startswith(f"{place}/objects/runs/{key[:2]}/{key}/")
    assert b"counted.txt" in content
    assert before == [stored("1")]


def test_only_the_entries_of_one_stage_come_from_the_remote(clone: Clone, place: Path) -> None:
    clone("a")
    store = RemoteStore()
    for key in ("aa11", "bb22"):
        store.write(f"{store.path}/runs/{key[:2]}/{key}/entry-1", key.encode())
        store.write(f"{store.path}/runs/{key[:2]}/{key}/entry-2", key.encode())
    store.pull_one_run("")
    assert StageCache.pull(None, "shared") == []
    assert not Path(".dvc/cache/runs").exists()
    store.pull_one_run("aa11")
    assert store.repo.stage_cache.pull("shared", odb=None) == []
    assert files(Path(".dvc/cache/runs")) == ["aa/aa11/entry-1", "aa/aa11/entry-2"]
    store.pull_one_run("bb22")
    store.repo.stage_cache.pull("shared")
    assert len(files(Path(".dvc/cache/runs"))) == 4


def test_a_stage_whose_dependency_is_missing_has_no_key(clone: Clone) -> None:
    clone("a")
    Path("given.txt").unlink()
    with pytest.raises(FlowError, match=r"^count: dependency 'given\.txt' does not exist$"):
        RemoteStore().key("count")


def test_a_folder_that_is_not_mounted_is_away_and_never_made(clone: Clone, place: Path) -> None:
    clone("a")
    store = RemoteStore()
    assert store.local is True
    assert store.path == f"{place}/objects"
    assert store.away() == ""
    (place / "objects").rmdir()
    reason = f"{place}/objects is no folder; make or mount it"
    assert store.away() == reason
    with pytest.raises(FlowError) as refused:
        store.push()
    assert str(refused.value) == f"DVC's remote: {reason}"
    assert not (place / "objects").exists()
    (place / "objects").touch()
    assert store.away() == reason, "nor is a file"


class Far:
    """A file system of another protocol, which may answer with an error."""

    protocol = "far"
    error: Exception | None = None

    def info(self, path: str) -> dict[str, str]:
        if self.error:
            raise self.error
        return {"name": path}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, ""),
        (FileNotFoundError("nothing"), ""),
        (PermissionError("not\nyours"), "bucket/x: PermissionError: not yours"),
        (KeyError("region"), "bucket/x: KeyError: 'region'"),
        (RuntimeError(), "bucket/x: RuntimeError: RuntimeError"),
    ],
)
def test_a_remote_elsewhere_is_away_unless_it_answers(monkeypatch: Any, error: Any, reason: str) -> None:
    class Cloud:
        def get_remote_odb(self, name: str | None, command: str, hash_name: str) -> Any:
            assert (name, command, hash_name) == (None, "push", "md5-dos2unix")
            return SimpleNamespace(fs=Far(), path="bucket/x")

    monkeypatch.setattr(remote_store, "Repo", lambda *_, config: SimpleNamespace(cloud=Cloud(), config=config))
    monkeypatch.setattr(Far, "error", error)
    store = RemoteStore()
    assert store.local is False
    assert store.away() == reason


def test_another_remote_than_the_default_one_is_given_by_its_url(clone: Clone, place: Path) -> None:
    clone("a")
    (place / "elsewhere").mkdir()
    assert RemoteStore("new", f"{place}/elsewhere").path == f"{place}/elsewhere"
    assert RemoteStore("shared", f"{place}/elsewhere").path == f"{place}/elsewhere"
    assert RemoteStore("new").path == f"{place}/objects"
    assert RemoteStore().path == f"{place}/objects"


def test_a_clone_without_a_remote_or_outside_of_a_project_says_so(clone: Clone, place: Path) -> None:
    (clone("a") / ".dvc" / "config").write_text("")
    with pytest.raises(
        FlowError, match=r"^DVC's remote: config file error: no remote specified in .*Create a default remote with"
    ):
        RemoteStore()
    os.chdir(place)
    with pytest.raises(FlowError, match=r"^DVC's remote: you are not inside of a DVC repository"):
        RemoteStore()


def test_a_small_file_is_written_whole_and_a_large_one_uploaded(clone: Clone, place: Path, monkeypatch: Any) -> None:
    clone("a")
    store = RemoteStore()
    path = f"{place}/objects/deep/er/file"
    assert store.listed(f"{place}/objects/deep") == []
    seen = []
    move = store.fs.mv

    def noting(source: str, target: str) -> None:
        seen.append((source, target, Path(source).read_bytes(), Path(target).exists()))
        move(source, target)

    monkeypatch.setattr(store.fs, "mv", noting)
    store.write(path, b"one")
    store.write(f"{path}-2", b"two")
    assert seen == [(f"{path}.part", path, b"one", False), (f"{path}-2.part", f"{path}-2", b"two", False)]
    (place / "large").write_bytes(b"three")
    for folder in ("deep/er", "deep/er", "new/est"):
        store.upload(place / "large", f"{place}/objects/{folder}/file")
    assert Path(path).read_bytes() == b"three"
    assert sorted(store.listed(f"{place}/objects/deep")) == [path, f"{path}-2"]
    assert sorted(store.listed(f"{place}/objects")) == [path, f"{path}-2", f"{place}/objects/new/est/file"]
    assert store.listed(f"{place}/objects/missing") == []


def test_what_comes_from_the_remote_appears_whole(clone: Clone, monkeypatch: Any) -> None:
    clone("a")
    store = RemoteStore()
    store.write(f"{store.path}/runs/aa/aa11/entry", b"whole")
    got = []

    def cut_off(source: str, target: str) -> None:
        got.append((source, target))
        Path(target).write_bytes(b"who")
        raise OSError("cut off")

    monkeypatch.setattr(store.fs, "get_file", cut_off)
    with pytest.raises(OSError, match="cut off"):
        store.fetch_run("aa11")
    folder = Path(".dvc/cache/runs/aa/aa11").absolute()
    assert got == [(f"{store.path}/runs/aa/aa11/entry", f"{folder}/entry.{os.getpid()}.part")]
    assert list(folder.iterdir()) == []
    assert not store.run_is_here("aa11"), "or the stage would be computed without a lease"
