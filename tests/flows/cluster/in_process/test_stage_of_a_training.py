"""What the stage of a training does beside DVC: shared saves, files of the user's own, and its end as a command."""

import contextlib
import hashlib
import logging
import os
import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dvc import cli
from dvc.exceptions import DvcException

from flows.cluster import dvc_remote, lease, remote_store, saves, stage
from flows.runs.places import FlowError
from tasks.common import params, paths
from tasks.files import cost


@pytest.fixture
def store(folder_store: Any, place: Path, monkeypatch: Any) -> Any:
    """A remote to which an experiment whose digest is `digest` sends its saves every 5 minutes."""
    monkeypatch.setattr(paths, "SCRATCH", place / "scratch")
    monkeypatch.setattr(params, "resolved", lambda: "the experiment")
    monkeypatch.setattr(cost, "training_key", {"the experiment": "digest"}.__getitem__)
    monkeypatch.setitem(os.environ, dvc_remote.SAVES, "5")
    return folder_store


def save(folder: Path, text: str) -> str:
    name = f"state-0000040-{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return name


def sharing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, saves.Sharing)]


def test_a_training_goes_on_from_the_shared_save_and_shares_its_own_meanwhile(store: Any, place: Path, capsys: Any):
    name = save(place / "a", "state of a")
    assert saves.Saves(store, "key", place / "a").share() == 40
    with stage._sharing(store, "train", "key") as training:
        assert isinstance(training, saves.Sharing)
        assert sharing() == [training]
        assert training.seconds == 300.0
        assert (place / "scratch" / "train" / "digest" / name).read_text() == "state of a"
        said = f"got the shared save after update 40 from {place}/remote/arc-saves/key\n"
        assert capsys.readouterr().out == said
    assert sharing() == []

    def fail() -> None:
        with stage._sharing(store, "train", "key") as training:
            assert sharing() == [training]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sharing() == [], "it ends with a training that fails too"


def test_only_trainings_are_shared_and_only_where_this_is_wanted(store: Any, place: Path, monkeypatch: Any) -> None:
    for name in ("count", "votes"):
        with stage._sharing(store, name, "key") as training:
            assert training is None
            assert sharing() == []
    monkeypatch.delitem(os.environ, dvc_remote.SAVES)
    with stage._sharing(store, "train", "key") as training:
        assert training is None
    assert not (place / "scratch").exists()


@pytest.mark.parametrize("name", ["count", "train", "votes"])
@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_stopped_training_shares_its_last_state_and_one_that_is_done_removes_all(
    place: Path, monkeypatch: Any, name: str, code: int, capsys: Any
) -> None:
    did: list[Any] = []
    store = SimpleNamespace(
        key=lambda name: f"key of {name}",
        pull_one_run=lambda key: None,
        run_is_here=lambda key: False,
        fetch_run=lambda key: False,
        push=lambda name: did.append(("push", name)),
    )

    @contextlib.contextmanager
    def shared(given: Any, name: str, key: str) -> Iterator[Any]:
        assert (given, key) == (store, f"key of {name}")
        yield SimpleNamespace(last=lambda: did.append("last")) if name == "train" else None
        did.append("ended")

    @contextlib.contextmanager
    def held(*_: Any) -> Iterator[bool]:
        yield True
        did.append("given back")

    def removing(given: Any, key: str, _: Path) -> Any:
        assert given is store
        return SimpleNamespace(remove=lambda: did.append(("remove", key)))

    monkeypatch.setattr(stage, "_sharing", shared)
    monkeypatch.setattr(lease, "held", held)
    monkeypatch.setattr(saves, "Saves", removing)
    monkeypatch.setattr(cli, "main", lambda _: code)
    assert stage._run(store, name) == code
    training = name == "train"
    if code:
        assert did == [*(["last"] if training else []), "ended", "given back"]
    else:
        assert did == ["ended", ("push", name), *([("remove", "key of train")] if training else []), "given back"]
    assert capsys.readouterr().out == ""


def test_files_of_ones_own_that_dvc_tracks_are_pulled_where_they_are_missing(place: Path) -> None:
    pulled: list[list[str]] = []
    store: Any = SimpleNamespace(repo=SimpleNamespace(pull=lambda targets: pulled.append(targets)))
    stage._pull_own(store)
    own = place / "data" / "own"
    own.mkdir(parents=True)
    for name in ("here.json", "here.json.dvc", "untracked.json"):
        (own / name).touch()
    stage._pull_own(store)
    assert pulled == []
    for name in ("b.json.dvc", "a.json.dvc", "c.json.dvc"):
        (own / name).touch()
    stage._pull_own(store)
    assert pulled == [["data/own/a.json.dvc", "data/own/b.json.dvc", "data/own/c.json.dvc"]]

    def refuse(targets: list[str]) -> None:
        raise DvcException("no such\nfile there")

    store.repo.pull = refuse
    with pytest.raises(FlowError, match=r"^DVC's remote: no such file there$"):
        stage._pull_own(store)


@pytest.mark.parametrize(("outcome", "end"), [(0, 0), (9, 9), (FlowError("DVC's remote: x"), "ERROR: DVC's remote: x")])
def test_as_a_command_it_ends_with_the_code_of_dvc_or_an_error(
    place: Path, monkeypatch: Any, outcome: Any, end: Any
) -> None:
    class Store:
        def __init__(self) -> None:
            if isinstance(outcome, FlowError):
                raise outcome

        def away(self) -> str:
            return ""

        def key(self, name: str) -> str:
            assert name == "count"
            return ""

        def pull_one_run(self, key: str) -> None: ...

    monkeypatch.setattr(remote_store, "RemoteStore", Store)
    outcomes = iter([outcome])
    monkeypatch.setattr(cli, "main", lambda _: next(outcomes))
    monkeypatch.setattr(sys, "argv", ["stage", "count"])
    monkeypatch.setattr(logging.getLogger("dvc"), "handlers", [])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(stage.__file__, run_name="__main__")
    assert ended.value.code == end
