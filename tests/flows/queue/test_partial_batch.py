"""A server that refuses a run in the middle of a batch: the message says how many are queued."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from flows.cluster import exchange, settings
from flows.queue import admission, deployment, queue
from flows.runs import places, snapshots
from flows.runs.places import FlowError
from flows.runs.request import Request

REQUESTS = [Request(version="v3", size="tiny", dataset="aa1-6x6", seed=seed) for seed in range(4)]


@pytest.mark.parametrize("refused", [0, 2])
def test_a_batch_that_is_queued_in_part_says_so(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    frozen = [SimpleNamespace(commit=str(seed), warning=None) for seed in range(4)]
    created: list[int] = []

    def create(connection: Any, target: Any, request: Request, *_: Any) -> int:
        if len(created) == refused:
            raise httpx.ConnectError("503 Service Unavailable")
        created.append(request.seed)
        return request.seed

    monkeypatch.setattr(deployment, "identity", lambda _: "deployment")
    monkeypatch.setattr(places, "tree", lambda: Path())
    monkeypatch.setattr(snapshots, "freeze", lambda *_: frozen)
    monkeypatch.setattr(exchange, "share_frozen", list)
    monkeypatch.setattr(settings, "joined", lambda: False)
    monkeypatch.setattr(admission, "create", create)
    connection: Any = None
    if not refused:
        with pytest.raises(httpx.ConnectError):
            queue.submit(connection, REQUESTS, None)
        return
    with pytest.raises(FlowError, match=r"the first 2 of 4 runs are queued.*503 Service Unavailable"):
        queue.submit(connection, REQUESTS, None)
    assert created == [0, 1]
