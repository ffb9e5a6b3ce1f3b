"""`arc worker --stop` ends worker and server; a proxy in the environment is not asked for this machine's addresses."""

import socket
from pathlib import Path

import pytest

from tests.support.flows_lab import ENDED, LONG, Lab, until

pytestmark = [pytest.mark.slow, pytest.mark.night]


def test_worker_and_server_end_and_the_next_worker_resumes_through_no_proxy(tmp_path: Path) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.settimeout(1)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        variables = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), address)
        lab = Lab(tmp_path, **variables, **{name.upper(): value for name, value in variables.items()})
        try:
            lab.start_worker()
            [run] = lab.queue(LONG)
            until(lambda: lab.saved() >= 20, 120)
            lines = lab.arc("worker", "--stop").splitlines()
            assert [line.split(" (")[0] for line in lines] == ["the worker", "the server"]
            until(lambda: not lab.processes(), 30)
            assert lab.arc("worker", "--stop").splitlines() == [
                "no worker is running",
                "no server of this checkout is running",
            ]
            lab.start_worker()
            until(lambda: lab.resumed_from(run), 120)
            lab.arc("queue", "--cancel", run[:8])
            until(lambda: lab.state(run) in ENDED, 90)
            with pytest.raises(TimeoutError):
                proxy.accept()
        finally:
            lab.stop()
