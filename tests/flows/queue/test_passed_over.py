"""Whether the first run that the server gives a worker is the first that waits; the server is made up."""

import contextlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

from flows.cluster import settings
from flows.queue import deployment, flow_runs, other_workers
from tests.support.made_up_server import run

NOW = datetime.now(UTC)
SERVED = ["high", "normal", "gpu-high", "gpu-normal", "default"]
QUEUE = {name: uuid.uuid4() for name in [*deployment.QUEUES, "default"]}


class Waiting:
    """Answers as Prefect's server would for what it is asked here: queues, start times, the earliest first."""

    def __init__(self, *runs: Any) -> None:
        self.runs = runs

    def read_flow_runs(self, *, limit: int, **given: Any) -> list[Any]:
        asked = given["flow_run_filter"]
        assert asked.state.type.any_ == [StateType.SCHEDULED]
        assert given["work_pool_filter"].name.any_ == [deployment.POOL]
        assert given["sort"] == FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC
        queues, until = given["work_queue_filter"], asked.next_scheduled_start_time.before_
        found = [
            row
            for row in self.runs
            if (row.work_queue_id in queues.id.any_ if queues.id else row.work_queue_name in queues.name.any_)
            and row.next_scheduled_start_time <= until
        ]
        return sorted(found, key=lambda row: row.next_scheduled_start_time)[:limit]


def waits(name: str, seconds: float, queue: str = "normal") -> Any:
    """A run of a queue that is to start `seconds` from now."""
    fields = {"work_queue_id": QUEUE[queue], "next_scheduled_start_time": NOW + timedelta(seconds=seconds)}
    return run(StateType.SCHEDULED, name, work_queue_name=queue, **fields)


@pytest.fixture
def passed_over(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(settings, "alone", lambda: False)

    def asked(first: Any, *others: Any) -> bool:
        monkeypatch.setattr(deployment, "kept_client", lambda: contextlib.nullcontext(Waiting(first, *others)))
        return other_workers.passed_over(first, SERVED)

    return asked


def test_an_earlier_run_of_the_same_queue_was_passed_over(passed_over: Any) -> None:
    first = waits("first", -60)
    assert not passed_over(first)
    assert not passed_over(first, waits("later", -59))
    assert passed_over(first, waits("later", -59), waits("earlier", -61))
    assert not passed_over(first, waits("earlier, of another machine", -61, "cpu-normal"))
    assert not passed_over(first, waits("earlier, of a lower queue", -61, "gpu-normal"))


@pytest.mark.parametrize(
    ("queue", "other", "expected"),
    [
        ("normal", "high", True),
        ("normal", "gpu-high", True),
        ("normal", "cpu-high", False),  # Not served here.
        ("gpu-normal", "normal", True),
        ("gpu-high", "high", True),
        ("high", "gpu-high", False),
        ("high", "normal", False),
        ("default", "high", True),
        ("high", "default", False),
    ],
)
def test_so_was_a_run_of_a_queue_that_is_served_first(passed_over: Any, queue: str, other: str, expected: bool) -> None:
    assert passed_over(waits("first", -60, queue), waits("other", -1, other)) == expected
    assert not passed_over(waits("first", -60, queue), waits("not yet", 3600, other))


def test_a_run_that_was_taken_meanwhile_is_nobodys_and_a_worker_alone_does_not_ask(
    passed_over: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_runs, "first_due", lambda *_: None)
    assert not passed_over(waits("taken", -60), waits("high", -61, "high"))
    monkeypatch.undo()
    monkeypatch.setattr(settings, "alone", lambda: True)
    assert not other_workers.passed_over(waits("first", -60), SERVED)
