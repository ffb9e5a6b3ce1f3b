"""Which port the server of this checkout has, and how long its start may take."""

import os
import signal
import sys
from pathlib import Path

import pytest

from flows.runs import places
from flows.runs.places import FlowError
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


@pytest.mark.slow
@pytest.mark.parametrize(("work", "silent", "computing"), [("time.sleep(99)", 1.0, 1e6), ("sum(range(99))", 1e6, 1.5)])
def test_a_server_that_starts_is_given_up_when_it_does_nothing_or_too_much(
    work: str, silent: float, computing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after some time: on a loaded machine it starts slowly."""
    program = tmp_path / "python"
    code = f"import time\nwhile True: {work}"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/process\nexec {sys.executable} -c '{code}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(places, "environment", lambda: {"PREFECT_HOME": str(tmp_path)})
    monkeypatch.setattr(server, "answers", lambda: False)
    monkeypatch.setattr(server, "START_SECONDS", silent)
    monkeypatch.setattr(server, "START_CPU_SECONDS", computing)
    try:
        with pytest.raises(FlowError, match=r"does not answer at .* after \d+ s and [0-9] s of CPU time; see .*log"):
            server._start()
    finally:
        os.kill(int((tmp_path / "process").read_text()), signal.SIGKILL)
