"""Which port the server of this checkout has."""

import os

import pytest

from flows.runs import places
from flows.worker import server
from tasks.servers import prefect_server, ui


@pytest.mark.parametrize(
    ("foreign", "answers", "ours", "port"),
    [
        (False, False, False, "4321"),  # Nothing is on the configured port.
        (False, True, False, "4321"),  # A server of another checkout is.
        (False, True, True, "4200"),
        (True, False, False, "4200"),  # Its address was configured by the user.
    ],
)
def test_a_server_on_another_port_than_the_configured_is_found(monkeypatch, foreign, answers, ours, port):
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", "4200")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(prefect_server, "foreign", lambda: foreign)
    monkeypatch.setattr(server, "answers", lambda: answers)
    monkeypatch.setattr(server, "ours", lambda: ours)
    monkeypatch.setattr(ui, "running", lambda page: 4321)
    monkeypatch.setattr(places, "environment", dict)
    server.find()
    assert os.environ["PREFECT_SERVER_API_PORT"] == port
