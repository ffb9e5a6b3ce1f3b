"""What of a run is shared, in which order, and what is said where it cannot be; git's and DVC's parts are made up."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.cluster import dvc_remote, exchange, settings, share
from flows.cluster.settings import Settings
from flows.runs import places, snapshots
from flows.runs.places import FlowError, git


@pytest.fixture
def did(place: Path, monkeypatch: Any) -> list[Any]:
    """What a clone that has joined a cluster with both remotes does, in its order."""
    done: list[Any] = []
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: folder == place)
    monkeypatch.setattr(dvc_remote, "push", lambda folder: done.append(("outputs", folder)))
    monkeypatch.setattr(exchange, "push_branch", lambda branch: done.append(("branch", branch)))
    monkeypatch.setattr(exchange, "push_records", lambda run: done.append(("records", run)))
    return done


def finished(run: str) -> None:
    places.folder_of(run).mkdir(parents=True, exist_ok=True)
    (places.folder_of(run) / "branch").write_text("exp/x\n")


def test_outputs_go_before_the_branch_that_names_them_and_records_last(did: list[Any], monkeypatch: Any) -> None:
    share.share("crashed")
    assert did == [("records", "crashed")], "it has no result"
    did.clear()
    finished("r")
    places.worktree_of("r").mkdir(parents=True)
    share.share("r")
    assert did == [("outputs", places.worktree_of("r")), ("branch", "exp/x"), ("records", "r")]
    did.clear()
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: False)
    share.share("r")
    assert did == [("branch", "exp/x"), ("records", "r")]


def test_outputs_whose_worktree_is_gone_are_pushed_from_another_one(did: list[Any], monkeypatch: Any) -> None:
    def create(commit: str, name: str) -> Path:
        did.append(("create", commit, name))
        return Path("made")

    monkeypatch.setattr(snapshots, "create_worktree", create)
    monkeypatch.setattr(snapshots, "remove", lambda name: did.append(("remove", name)))
    finished("r")
    share.share("r")
    made, removed = ("create", "refs/heads/exp/x", "r-share"), ("remove", "r-share")
    assert did == [made, ("outputs", Path("made")), removed, ("branch", "exp/x"), ("records", "r")]
    did.clear()

    def away(folder: Path) -> None:
        raise FlowError("away")

    monkeypatch.setattr(dvc_remote, "push", away)
    with pytest.raises(FlowError, match="away"):
        share.share("r")
    assert did == [made, removed], "the branch has to wait"


def test_each_run_is_tried_and_the_one_that_fails_stays(did: list[Any], monkeypatch: Any) -> None:
    for run in ("bbbbbbbb-2", "aaaaaaaa-1", "cccccccc-3"):
        share.mark(run)
        share.mark(run)
    (places.folder_of("dddddddd-4")).mkdir()
    errors = {"aaaaaaaa-1": FlowError("git\nis away"), "bbbbbbbb-2": FlowError("full")}

    def push(run: str) -> None:
        did.append(run)
        if run in errors:
            raise errors.pop(run)

    monkeypatch.setattr(exchange, "push_records", push)
    assert list(share.try_all()) == [
        "run aaaaaaaa is not shared yet: git is away",
        "run bbbbbbbb is not shared yet: full",
    ]
    assert list(share.try_all()) == []
    assert list(share.try_all()) == []
    assert did == ["aaaaaaaa-1", "bbbbbbbb-2", "cccccccc-3", "aaaaaaaa-1", "bbbbbbbb-2"]


def test_an_error_of_our_own_leaves_the_others_their_turn(did: list[Any], monkeypatch: Any) -> None:
    share.mark("r")

    def wrong(run: str) -> None:
        raise KeyError(run)

    monkeypatch.setattr(share, "share", wrong)
    for _ in range(2):
        with pytest.raises(KeyError):
            list(share.try_all(wait=False))
    monkeypatch.setattr(share, "share", did.append)
    assert list(share.try_all(wait=False)) == []
    assert did == ["r"]


@pytest.mark.parametrize(("busy", "released"), [(False, 1), (True, 0)])
def test_a_thread_waits_for_the_one_that_shares_unless_it_is_told_not_to(
    did: list[Any], monkeypatch: Any, busy: bool, released: int
) -> None:
    asked: list[Any] = []

    def acquire(blocking: bool) -> bool:
        asked.append(blocking)
        return not busy

    monkeypatch.setattr(share, "_sharing", SimpleNamespace(acquire=acquire, release=lambda: asked.append("released")))
    share.mark("r")
    assert list(share.try_all()) == list(share.try_all(wait=True)) == list(share.try_all(wait=False)) == []
    after = ["released"] * released
    assert asked == [True, *after, True, *after, False, *after]
    assert did == [("records", "r")] * released


def test_a_clone_on_its_own_shares_and_receives_nothing(did: list[Any], monkeypatch: Any) -> None:
    share.mark("r")
    monkeypatch.setattr(settings, "joined", lambda: False)
    monkeypatch.setattr(exchange, "fetch_records", lambda: did.append("fetched"))
    share.mark("s")
    assert not places.folder_of("s").exists()
    assert list(share.try_all()) == share.receive() == did == []


def test_records_and_branches_are_received_or_it_is_said_why_not(did: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(exchange, "fetch_records", lambda: did.append("records"))
    monkeypatch.setattr(exchange, "fetch_branches", lambda: ["one", "two"])
    assert share.receive() == ["one", "two"]
    assert did == ["records"]

    def away() -> list[str]:
        raise FlowError("git\nis away")

    line = "without the latest results of other machines: git is away"
    monkeypatch.setattr(exchange, "fetch_branches", away)
    assert share.receive() == [line]
    monkeypatch.setattr(exchange, "fetch_records", away)
    monkeypatch.setattr(exchange, "fetch_branches", list)
    assert share.receive() == [line]


def test_a_flow_is_tied_to_its_worker_in_a_cluster(monkeypatch: Any) -> None:
    monkeypatch.setattr(settings, "alone", lambda: True)
    assert share.engine("x.y") == [sys.executable, "-m", "x.y"]
    monkeypatch.setattr(settings, "alone", lambda: False)
    assert share.engine("x.y") == [sys.executable, "-m", "flows.cluster.tied", "x.y"]


def test_stages_are_taken_from_the_remote_where_the_clone_has_joined_and_has_one(did: list[Any], monkeypatch: Any):
    os.environ.pop(dvc_remote.SAVES, None)
    monkeypatch.setattr(settings, "read", lambda: Settings(remote="origin"))
    assert share.variables() == {"ARC_DVC_PULL": "1"}
    os.environ[dvc_remote.SAVES] = "3"
    assert share.variables() == {"ARC_DVC_PULL": "1", "ARC_SHARE_SAVES": "3"}
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: False)
    assert share.variables() == {}
    monkeypatch.setattr(settings, "joined", lambda: False)
    assert share.variables() == {}
    monkeypatch.setattr(dvc_remote, "configured", lambda folder: True)
    assert share.variables() == {}


def test_files_of_ones_own_are_named_unless_git_or_dvc_has_them(place: Path) -> None:
    git("init", "-q", cwd=place)
    own = place / "data" / "own"
    own.mkdir(parents=True)
    assert share.own_files_missing(place) == []
    for name in ("a b.json", "z.json", "of-dvc.json", "of-dvc.json.dvc", "of-git.json", "alone.dvc"):
        (own / name).touch()
    (place / "elsewhere.json").touch()
    git("add", "data/own/of-git.json", cwd=place)
    assert sorted(share.own_files_missing(place)) == ["data/own/a b.json", "data/own/z.json"]
