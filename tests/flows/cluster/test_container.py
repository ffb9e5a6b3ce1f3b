"""The command of the Dockerfile, in an empty folder instead of a container: it clones, joins and executes a run."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.cluster_lab import Cluster, home, started
from tests.support.flows_lab import SHORT, until
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.night]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with started(tmp_path) as made:
        yield made


def test_the_command_of_the_dockerfile_makes_a_machine(cluster: Cluster, tmp_path: Path) -> None:
    a = cluster.a
    a.only("params")
    a.sh("git", "push", "-q", "origin", "main")
    a.arc("queue", "--list")
    cluster.join(a, mlflow=False)
    line = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("CMD "))
    pod = tmp_path / "pod"
    pod.mkdir()
    log = tmp_path / "pod.log"
    variables = {
        **a.environment,
        "HOME": str(home(pod)),
        # As in a container, where nobody has used it: the pod's own server would have this port.
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "PREFECT_API_AUTH_STRING": cluster.secret(),
        "ARC_LOCKS": str(tmp_path / "locks"),
        "ARC_GIT": str(cluster.remote),
        "ARC_SERVER": cluster.api,
        "ARC_DATA": str(cluster.data),
        "ARC_MLFLOW": "",
        "ARC_SHARE_SAVES": "5",
    }
    with log.open("wb") as file:
        process = subprocess.Popen(json.loads(line[4:]), cwd=pod, env=variables, stdout=file, stderr=file)
    try:
        until(lambda: "working: 1 at once" in log.read_text() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        [run] = a.queue(SHORT)
        until(lambda: a.state(run) == "COMPLETED", 60)
        until(lambda: len(cluster.branches()) == 1, 30)
        process.terminate()
        assert process.wait(60) == 0, log.read_text()[-2000:]
        assert "stopping" in log.read_text()
    finally:
        process.kill()
        process.wait()
