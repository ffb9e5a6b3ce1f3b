"""The order of the queue, what bumping and cancelling do, and which run a text means; the server is made up."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.cluster import exchange, settings, share
from flows.queue import admission, deployment, queue
from flows.runs import snapshots
from flows.runs.places import FlowError
from flows.runs.request import Request
from tasks.servers import prefect_server
from tests.support.made_up_server import Server, run

NOW = datetime.now(UTC)


def queued(name: str, kind: StateType = StateType.SCHEDULED, queue: str = "normal", minutes: float = 0.0) -> Any:
    given = {"request": {"version": "v3", "size": "tiny", "dataset": "aa1"}}
    start = NOW + timedelta(minutes=minutes)
    variables = {"env": {"ARC_COMMIT": "c" * 40}}
    return run(
        kind, name, parameters=given, work_queue_name=queue, next_scheduled_start_time=start, job_variables=variables
    )


def test_runs_are_listed_in_the_order_of_execution(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, early, high = queued("late", minutes=2), queued("early", minutes=1), queued("high", queue="high", minutes=9)
    begun = queued("begun", StateType.RUNNING, queue="cpu-normal")
    starts = queued("starts", StateType.PENDING)
    ends = queued("ends", StateType.CANCELLING)
    unknown = queued("unknown", queue="default", minutes=-9)
    server = Server(late, unknown, high, early, starts, ends, begun)
    order = [row.name for row in queue.waiting(server)]
    assert order == ["begun", "ends", "starts", "high", "early", "late", "unknown"]
    monkeypatch.setattr(settings, "joined", lambda: False)
    rows = queue.rows(server)
    assert [(row[""], row["run"]) for row in rows] == [(str(i), name) for i, name in enumerate(order, 1)]
    assert set(rows[0]) == {"", "id", "run", "queue", "state", "start"}
    assert rows[3]["id"] == str(high.id)[:8]
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr("flows.queue.queue.owners.owner", lambda row: f"worker of {row.name}")
    assert queue.rows(server)[0]["worker"] == "worker of begun"


def test_a_run_is_found_by_number_id_or_name_if_only_one_is_meant(checkout: Path) -> None:
    first, second, same = queued("x"), queued("y", minutes=1), queued("y", minutes=2)  # No id begins with these.
    server = Server(first, second, same)
    assert queue.find(server, "1") is first
    assert queue.find(server, "3") is same
    assert queue.find(server, str(second.id)) is second
    assert queue.find(server, "x") is first
    for text, says in (("4", "no run matches '4'"), ("0", "no run"), ("y", "2 runs match 'y'")):
        with pytest.raises(FlowError, match=says):
            queue.find(server, text)


def test_the_only_run_is_not_meant_by_nothing_or_a_short_start_of_its_id(checkout: Path) -> None:
    only = queued("x")
    only.id = UUID("abcdef01-2345-4789-8abc-def012345678")
    for text in ("", "a", "abc"):
        with pytest.raises(FlowError, match=f"^no run matches '{text}'; allowed are .* at least 4 characters"):
            queue.find(Server(only), text)
    assert queue.find(Server(only), "abcd") is only


def test_a_title_that_is_the_start_of_an_id_is_the_title(checkout: Path) -> None:
    other = queued("x")
    named = queued(str(other.id)[:4])
    assert queue.find(Server(other, named), named.name) is named


def test_a_bumped_run_is_before_all_that_wait(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, high, running = queued("first", minutes=-5), queued("h", queue="gpu-high"), queued("r", StateType.RUNNING)
    chosen = queued("chosen", minutes=60)
    server, created = Server(first, high, running, chosen), []
    monkeypatch.setattr(admission, "create", lambda *given, replaces: created.append((*given, replaces)))
    with pytest.raises(FlowError, match="only waiting runs can be bumped"):
        queue.bump(server, running)
    assert queue.bump(server, high) == "h: first in its queue"
    moved = high.state.state_details.scheduled_time
    assert moved == first.next_scheduled_start_time - timedelta(seconds=1)
    assert queue.bump(server, chosen) == "chosen: first in queue high"
    [(_, target, request, snapshot, when, replaced)] = created
    assert replaced is chosen
    assert (target, request.priority, snapshot.commit) == (chosen.deployment_id, "high", "c" * 40)
    assert when <= moved
    assert chosen.id not in server.runs
    unfrozen = queued("unfrozen")
    unfrozen.job_variables = {}
    server.runs[unfrozen.id], server.states[unfrozen.id] = unfrozen, []
    assert queue.bump(server, unfrozen) == "unfrozen: first in its queue"
    assert len(created) == 1


def test_a_run_that_begins_while_it_is_bumped_stays_the_only_one(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    listed, begun = queued("listed"), queued("listed", StateType.RUNNING)
    begun.id = listed.id
    with pytest.raises(FlowError, match="only waiting runs can be bumped"):
        queue.bump(Server(begun), listed)
    instead = queued("instead")
    server = Server(listed)

    def create(*_: object, replaces: object) -> object:
        server.runs |= {instead.id: instead, listed.id: begun}
        return instead

    monkeypatch.setattr(admission, "create", create)
    with pytest.raises(FlowError, match=r"^listed began meanwhile"):
        queue.bump(server, listed)
    assert list(server.runs.values()) == [begun]


def test_a_waiting_run_is_cancelled_at_once_and_a_running_one_saves_first(checkout: Path) -> None:
    waits, runs = queued("waits"), queued("runs", StateType.RUNNING)
    server = Server(waits, runs)
    assert queue.cancel(server, waits) == "waits: cancelled before it began"
    assert queue.cancel(server, runs).startswith("runs: cancelling; a training saves first")
    assert (waits.state.type, runs.state.type) == (StateType.CANCELLED, StateType.CANCELLING)
    listed = queued("taken since it was listed")
    taken = queued("taken", StateType.RUNNING)
    taken.id = listed.id
    assert queue.cancel(Server(taken), listed).startswith("taken: cancelling")


def request(**fields: Any) -> Request:
    return Request(version="v3", size="tiny", dataset="aa1", **fields)


def test_requests_are_queued_in_order_from_the_given_time(checkout: Path, monkeypatch: Any, capsys: Any) -> None:
    requests = [request(seed=seed) for seed in range(3)]
    made: list[Any] = []
    shared: list[str] = []
    frozen = [snapshots.Snapshot(str(i), ("notes.txt",)) for i in range(3)]
    monkeypatch.setattr(deployment, "identity", lambda _: "d")
    monkeypatch.setattr("flows.queue.queue.places.tree", lambda: checkout)
    monkeypatch.setattr(snapshots, "freeze", lambda given, tree: frozen[: len(given)])
    monkeypatch.setattr(exchange, "share_frozen", shared.extend)
    monkeypatch.setattr(settings, "joined", lambda: True)
    monkeypatch.setattr(share, "own_files_missing", lambda _: [f"f{i}" for i in range(7)])
    monkeypatch.setattr(admission, "create", lambda *given: made.append(given[2:]) or given[2].seed)
    assert queue.submit(Server(), requests, NOW) == [0, 1, 2]
    assert [(asked.seed, snapshot.commit, when - NOW) for asked, snapshot, when in made] == [
        (i, str(i), timedelta(milliseconds=i)) for i in range(3)
    ]
    assert shared == ["0", "1", "2"]
    first, second = capsys.readouterr().err.splitlines()
    assert "notes.txt" in first
    assert "f0, f1, f2, f3, f4;" in second
    queue.submit(Server(), requests[:1], None)
    assert abs((made[-1][2] - datetime.now(UTC)).total_seconds()) < 60

    def refuse(*given: Any) -> Any:
        if given[2].seed == refused:
            raise httpx.ConnectError("away")
        return given[2].seed

    monkeypatch.setattr(admission, "create", refuse)
    refused = 2
    with pytest.raises(FlowError, match="the first 2 of 3 runs are queued"):
        queue.submit(Server(), requests, NOW)
    refused = 0
    with pytest.raises(httpx.ConnectError):
        queue.submit(Server(), requests, NOW)


class Objects:
    """Prefect's pool, queues and deployment, as they were asked for."""

    def __init__(self, known: bool) -> None:
        self.known, self.queues, self.limit, self.made = known, {}, "unset", 0

    def create_work_pool(self, pool: Any) -> None:
        if self.known:
            raise ObjectAlreadyExists(http_exc=None)
        self.limit = pool.concurrency_limit

    def update_work_pool(self, name: str, update: Any) -> None:
        assert name == "gpu"
        if "concurrency_limit" in update.model_fields_set:
            self.limit = update.concurrency_limit

    def create_work_queue(self, name: str, work_pool_name: str, priority: int) -> None:
        if self.known and name == "high":
            raise ObjectAlreadyExists(http_exc=None)
        self.queues[name] = priority

    def create_flow(self, _: Any) -> str:
        return "flow"

    def create_deployment(self, **given: Any) -> None:
        self.made += 1
        assert (given["pull_steps"], given["enforce_parameter_schema"]) == ([], True)
        assert given["entrypoint"] == "flows.runs.flow.experiment"

    def read_deployment_by_name(self, name: str) -> Any:
        if not self.known:
            raise ObjectNotFound(http_exc=None)
        return SimpleNamespace(id=name)


@pytest.mark.parametrize(
    ("known", "slots", "alone", "limit"),
    [(False, 4, True, 4), (True, None, True, "unset"), (True, 4, False, None), (False, None, True, 1)],
)
def test_pool_queues_and_deployment_are_made_once_and_kept_as_the_code_says(
    checkout: Path, monkeypatch: Any, known: bool, slots: int | None, alone: bool, limit: Any
) -> None:
    monkeypatch.setattr(deployment, "git", lambda *_, **__: "abc")
    monkeypatch.setattr(deployment, "template", dict)
    schema = SimpleNamespace(model_dump_for_openapi=dict)
    monkeypatch.setattr(deployment, "parameter_schema", lambda _: schema)
    monkeypatch.setattr(prefect_server, "foreign", lambda: False)
    monkeypatch.setattr(settings, "alone", lambda: alone)
    objects = Objects(known)
    deployment.ensure(objects, slots)
    assert objects.limit == limit
    assert objects.made == 1
    assert set(objects.queues) == {*deployment.QUEUES} - ({"high"} if known else set())
    monkeypatch.setattr(prefect_server, "foreign", lambda: True)
    objects = Objects(known)
    deployment.ensure(objects, 4)
    assert objects.made == (not known), "at another clone's server they stay"


def test_the_deployment_is_known_by_its_name() -> None:
    assert deployment.identity(Objects(True)) == "experiment/queue"
    with pytest.raises(FlowError, match="no deployment experiment/queue"):
        deployment.identity(Objects(False))


@pytest.mark.parametrize(("count", "spread", "slots"), [(0, "", 1), (3, "", 3), (3, "1", 3), (3, "2", 1)])
def test_there_is_a_slot_a_gpu_unless_a_run_takes_several(monkeypatch: Any, count: int, spread: str, slots: int):
    monkeypatch.setenv("ARC_GPUS", spread)
    ends = [subprocess.CompletedProcess([], 0, f"{count}\n", "")]
    monkeypatch.setattr(deployment, "subprocess", SimpleNamespace(run=lambda *_, **__: ends[0]))
    assert deployment.slots() == slots
    ends[0] = subprocess.CompletedProcess([], 1, "", "first\nno driver\n")
    with pytest.raises(FlowError, match="no driver"):
        deployment.gpus()
