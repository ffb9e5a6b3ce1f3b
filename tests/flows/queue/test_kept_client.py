"""A worker's threads keep their clients of Prefect's server, and drop one with which something failed."""

import threading
from typing import Any

import pytest

from flows.queue import deployment


class Client:
    made: list["Client"] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.closed = False
        self.made.append(self)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed = True


def use() -> None:
    with deployment.kept_client():
        pass


def test_a_thread_keeps_its_client_until_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "client", Client)
    monkeypatch.setattr(deployment, "_kept", deployment._Kept())
    Client.made.clear()
    with deployment.kept_client() as first:
        pass
    with deployment.kept_client() as again, deployment.kept_client() as inner:
        assert again is first
        assert inner is not first
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(Client.made) == 3
    with pytest.raises(OSError, match="away"), deployment.kept_client() as used:
        raise OSError("away")
    assert [client.closed for client in Client.made].count(True) == 1
    with deployment.kept_client() as last:
        assert last is not used
