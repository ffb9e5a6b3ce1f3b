"""A stand-in for Prefect's client: runs with their states, in memory."""

import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from flows.cluster import owners
from flows.queue import deployment, flow_runs


def state(kind: StateType, name: str = "", age: float = 0.0, message: str | None = None) -> SimpleNamespace:
    """A state that is `age` seconds old."""
    stamp = datetime.now(UTC) - timedelta(seconds=age)
    return SimpleNamespace(
        id=uuid.uuid4(),
        type=kind,
        name=name or kind.value.title(),
        timestamp=stamp,
        message=message,
        is_final=lambda: kind in (StateType.COMPLETED, StateType.CANCELLED, StateType.FAILED, StateType.CRASHED),
    )


def run(kind: StateType, name: str = "run", deployment: Any = "d", **fields: Any) -> SimpleNamespace:
    """A run in a state of this kind."""
    age, message = fields.pop("age", 0.0), fields.pop("message", None)
    given = {
        "deployment_id": deployment,
        "tags": [],
        "parameters": {},
        "work_queue_name": "normal",
        "start_time": None,
        "next_scheduled_start_time": datetime.now(UTC),
        "expected_start_time": datetime.now(UTC),
        "run_count": 0,
        "job_variables": {},
    }
    return SimpleNamespace(id=uuid.uuid4(), name=name, state=state(kind, "", age, message), **{**given, **fields})


class Server:
    """Knows runs by id; what is asked of it is kept in `states` and `said`."""

    def __init__(self, *runs: Any) -> None:
        self.runs = {row.id: row for row in runs}
        self.states: dict[uuid.UUID, list[Any]] = {row.id: [row.state] for row in runs}
        self.said: list[Any] = []
        self.description: str | None = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None: ...

    def of(self, *kinds: StateType) -> list[Any]:
        return [row for row in self.runs.values() if not kinds or row.state.type in kinds]

    def read_flow_run(self, wanted: uuid.UUID) -> Any:
        if wanted not in self.runs:
            raise ObjectNotFound(LookupError(wanted))
        return self.runs[wanted]

    def read_flow_run_states(self, wanted: uuid.UUID) -> list[Any]:
        return self.states[wanted]

    def set_flow_run_state(self, wanted: uuid.UUID, state: Any, force: bool = False) -> None:
        # Prefect's rules refuse most changes; only a cancellation goes by them.
        assert force == (state.type != StateType.CANCELLING)
        self.states[wanted].append(state)
        self.runs[wanted].state = state

    def read_work_pool(self, name: str) -> Any:
        return SimpleNamespace(name=name, description=self.description)

    def delete_flow_run(self, wanted: uuid.UUID) -> None:
        del self.runs[wanted]

    def create_artifact(self, content: Any) -> None:
        self.said.append(content)


def serve(monkeypatch: pytest.MonkeyPatch, *runs: Any) -> Server:
    """A server with these runs for all code that asks for one; those named "elsewhere" are of another machine."""
    server = Server(*runs)
    monkeypatch.setattr(deployment, "kept_client", lambda: server)
    monkeypatch.setattr(flow_runs, "runs", lambda connection, *kinds, **_: connection.of(*kinds))
    monkeypatch.setattr(owners, "here", lambda row: row.name != "elsewhere")
    return server


def made_up_worker(**fields: Any) -> Any:
    """What the watch reads of a worker that executes nothing yet."""
    return SimpleNamespace(started=set(), _submitting_flow_run_ids=set(), **fields)
