"""What a worker does because there are others, and the runs that help another machine; the others are made up."""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from flows.cluster import dvc_remote, exchange, lease, owners, settings, share
from flows.queue import admission, deployment, other_workers, queue, several_nodes
from flows.runs import processes, snapshots
from flows.runs.flow import NODES
from flows.runs.places import FlowError
from flows.runs.request import Request
from tasks.common.stage import StageError
from tests.support.made_up_server import Server, run


@pytest.fixture
def cluster(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clone that has joined a cluster; `now` is the clock."""
    one = SimpleNamespace(now=1000.0, server=Server(), ended=[], lines=[])
    monkeypatch.setattr(settings, "alone", lambda: False)
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr(other_workers, "time", SimpleNamespace(monotonic=lambda: one.now))
    monkeypatch.setattr(other_workers, "_next_fetch", 0.0)
    for name in ("client", "kept_client"):
        monkeypatch.setattr(deployment, name, lambda: one.server)
    monkeypatch.setattr(owners, "here", lambda row: row.name.startswith("here"))
    monkeypatch.setattr(owners, "owner", lambda row: f"worker of {row.name}")
    monkeypatch.setattr(owners, "starting", lambda row: row.name.endswith("starting"))
    monkeypatch.setattr(owners, "online", lambda *_: {"z"})
    monkeypatch.setattr(share, "try_all", lambda wait: list(one.lines))
    monkeypatch.setattr(processes, "end", one.ended.append)
    other_workers._reported_waiting.clear()
    return one


def test_runs_that_were_taken_over_end_and_those_of_the_dead_are_settled(cluster: Any, monkeypatch: Any) -> None:
    taken, starts = run(StateType.RUNNING, "there"), run(StateType.RUNNING, "there, starting")
    mine, dead = run(StateType.RUNNING, "here"), run(StateType.RUNNING, "dead")
    crashed, by_hand = run(StateType.CRASHED, "crashed"), run(StateType.RUNNING, "by hand", deployment=None)
    cluster.server = Server(taken, starts, mine, dead, crashed, by_hand)
    started = {str(row.id) for row in (taken, starts, mine)}
    others: Any = other_workers.OtherWorkers(started, lambda _, row, why: f"settled {row.name}: {why}")
    asked: list[Any] = []
    others.orphans = SimpleNamespace(of=lambda runs, *_: asked.extend(row.name for row in runs) or runs[:1])
    cluster.lines = ["b", "a"]
    assert list(others.look()) == [
        "a",
        "b",
        "there: worker of there has taken it over, so it ends here",
        "settled dead: its worker worker of dead sends no heartbeat",
    ]
    assert cluster.ended == [str(taken.id)]
    assert asked == ["dead", "crashed"]
    cluster.now += 4.9
    assert list(others.look()) == []
    cluster.now += 0.1
    assert len(list(others.look())) == 2, "what could not be shared is tried again a minute later"
    cluster.now += 60.1
    cluster.lines.append("c")
    assert [line for line in others.look() if len(line) == 1] == ["c"], "and told once"
    monkeypatch.setattr(settings, "alone", lambda: True)
    cluster.now += 100
    assert list(others.look()) == []


def test_a_server_that_was_away_is_remembered(cluster: Any) -> None:
    others: Any = other_workers.OtherWorkers(set(), lambda *_: "")
    lost: list[int] = []
    others.orphans.lost_contact = lambda: lost.append(1)
    others.reached(lambda: None)
    assert not lost

    def away() -> None:
        raise FlowError("away")

    with pytest.raises(FlowError):
        others.reached(away)
    assert lost == [1]


def test_a_run_is_still_ours_unless_another_took_it(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = run(StateType.RUNNING, "here"), run(StateType.RUNNING, "there")
    cluster.server = Server(mine, other)
    assert other_workers.still_ours(str(mine.id))
    assert not other_workers.still_ours(str(other.id))
    monkeypatch.setattr(settings, "alone", lambda: True)
    assert other_workers.still_ours(str(other.id))


def test_a_run_waits_until_its_code_is_here(cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    known, foreign, fetched = "a" * 40, "b" * 40, []
    here = {known}
    runs = [run(StateType.SCHEDULED, name) for name in ("known", "away", "unfrozen", "odd")]
    commits = dict(zip((row.id for row in runs), (known, foreign, None, "no digest"), strict=True))
    monkeypatch.setattr(snapshots, "frozen_commits", lambda: set(here))
    monkeypatch.setattr(admission, "commit_of", lambda row: commits[row.id])
    monkeypatch.setattr(exchange, "fetch_frozen", lambda: fetched.append(cluster.now))
    for foreign_server, waiting in ((False, {runs[1].id}), (True, {runs[1].id, runs[2].id})):
        monkeypatch.setattr("flows.queue.other_workers.prefect_server.foreign", lambda f=foreign_server: f)
        assert other_workers.frozen(runs) == ({known}, waiting)
    assert fetched == [1000.0], "not at every look"
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["away", "unfrozen"], "each is told once"
    cluster.now += 30.0
    other_workers.frozen(runs)
    assert len(fetched) == 1
    cluster.now += 0.1
    here.add(foreign)
    assert other_workers.frozen(runs[:2])[1] == set()
    assert len(fetched) == 1, "it is here already"
    here.remove(foreign)
    monkeypatch.setattr(exchange, "fetch_frozen", lambda: here.add(foreign))
    assert other_workers.frozen(runs[:2]) == ({known, foreign}, set())
    here.remove(foreign)

    def away() -> None:
        raise FlowError("no\nremote")

    monkeypatch.setattr(exchange, "fetch_frozen", away)
    assert other_workers.frozen(runs[:2])[1] == {runs[1].id}
    assert "fetching frozen code: no remote" in capsys.readouterr().out
    monkeypatch.setattr(settings, "alone", lambda: True)
    assert other_workers.frozen(runs) == ({known}, set())


def test_a_worker_of_a_cluster_tidies_up_first(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "forget_expired", lambda _: 0)
    monkeypatch.setattr(exchange, "forget_old_records", lambda: None)
    monkeypatch.setattr(settings, "read", lambda: SimpleNamespace(remote="origin"))
    [line] = other_workers.start()
    assert line.endswith("shares code and results over the git remote origin")

    def away() -> None:
        raise FlowError("no\nremote")

    monkeypatch.setattr(lease, "forget_expired", lambda _: 2)
    monkeypatch.setattr(exchange, "forget_old_records", away)
    first, second, _ = other_workers.start()
    assert first.startswith("removed 2 leases")
    assert second.endswith(": no remote")
    monkeypatch.setattr(settings, "joined", lambda: False)
    assert list(other_workers.start()) == []


def test_each_other_machine_of_a_training_gets_a_run_of_its_own(cluster: Any, monkeypatch: Any, capsys: Any) -> None:
    asked = Request(version="v3", size="tiny", dataset="aa1")
    made, given = [], []

    def freeze(requests: Any, tree: Any, more: Any) -> Any:
        given.append({name: json.loads(text) for name, text in more.items()})
        return [SimpleNamespace(commit=str(len(given)))]

    def create(_: Any, target: Any, request: Any, frozen: Any, when: Any, name: str) -> Any:
        made.append((target, request.priority, frozen.commit, name))
        return SimpleNamespace(id=f"{len(made)}234567890")

    monkeypatch.setattr(dvc_remote, "configured", lambda _: True)
    monkeypatch.setattr("flows.queue.several_nodes.gpu_lock.holder", lambda _: None)
    monkeypatch.setattr(deployment, "identity", lambda _: "d")
    monkeypatch.setattr("flows.queue.several_nodes.places.tree", Path)
    monkeypatch.setattr(snapshots, "freeze", freeze)
    monkeypatch.setattr(exchange, "share_frozen", lambda _: None)
    monkeypatch.setattr(admission, "create", create)
    monkeypatch.setattr(share, "variables", lambda: {"ARC_SHARED": "1"})
    variables = several_nodes.ask(cluster.server, asked, 3, "10.0.0.1:2000")
    common = {"ARC_NODES": "3", "ARC_MEETING": "10.0.0.1:2000"}
    assert variables == common | {"ARC_NODE": "0", "ARC_HELPERS": "1234567890 2234567890", "ARC_SHARED": "1"}
    assert given == [{NODES: common | {"ARC_NODE": number}} for number in ("1", "2")]
    assert [row[:3] for row in made] == [("d", "high", "1"), ("d", "high", "2")]
    assert made[1][3] == f"{asked.title}, machine 3 of 3"
    assert capsys.readouterr().out.startswith("queued 12345678 ")
    for meeting in ("here", "here:", ":80", "a b:80", "here:123456", "-x:80", "here:99999", "here:0"):
        with pytest.raises(StageError, match="--meeting is"):
            several_nodes.ask(cluster.server, asked, 2, meeting)
    for meeting in ("here:80", "[fe80::1]:80"):
        several_nodes.ask(cluster.server, asked, 2, meeting)
    monkeypatch.setattr("flows.queue.several_nodes.gpu_lock.holder", lambda _: {"process": 7})
    with pytest.raises(FlowError, match=r"the worker of this clone \(process 7\)"):
        several_nodes.ask(cluster.server, asked, 2, "here:80")
    monkeypatch.setattr(dvc_remote, "configured", lambda _: False)
    with pytest.raises(FlowError, match="needs a cluster with a DVC remote"):
        several_nodes.ask(cluster.server, asked, 2, "here:80")


def test_helpers_that_have_not_ended_are_dismissed(cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ended, runs = run(StateType.COMPLETED, "ended"), run(StateType.RUNNING, "runs")
    cluster.server = Server(ended, runs)
    monkeypatch.setattr(queue, "cancel", lambda _, row: f"cancelled {row.name}")
    monkeypatch.delenv(several_nodes.HELPERS, raising=False)
    several_nodes.dismiss()
    monkeypatch.setitem(os.environ, several_nodes.HELPERS, f"{ended.id} {UUID(str(runs.id))}")
    several_nodes.dismiss()
    assert capsys.readouterr().out == "cancelled runs\n"


def test_a_server_that_is_away_at_the_end_is_told_of_and_hides_nothing(cluster: Any, monkeypatch: Any, capsys: Any):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # Bound, but it does not listen.
        api = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
        monkeypatch.setattr(deployment, "client", lambda: SyncPrefectClient(api))
        monkeypatch.setitem(os.environ, several_nodes.HELPERS, f"{UUID(int=7)} {UUID(int=8)}")
        several_nodes.dismiss()
    said = capsys.readouterr().err
    assert said.startswith("the runs that helped this one (00000000, 00000000) may still run")
    assert "`arc queue --cancel ID`" in said
