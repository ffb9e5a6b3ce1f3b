"""`arc run --nodes 2`: one training by two clones, with the losses of one; and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_lab import Cluster, started
from tests.support.flows_lab import ENDED, NAME, SHORT, Lab, until
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.night]
CHOSEN = [
    part
    for key, text in {**SHORT, "train.batch": 4, "train.accumulation": 2, "train.log_every": 5}.items()
    for part in ("--set", f"{key}={text}")
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with started(tmp_path) as made:
        yield made


def losses(lab: Lab) -> list[float]:
    """Of every recorded update of the only result of a project."""
    [branch] = lab.sh("git", "for-each-ref", "--format=%(refname:short)", "refs/heads/exp").split()
    folder = lab.folder.with_name(f"{lab.folder.name}-result")
    lab.arc("restore", branch, "--to", str(folder))
    rows = json.loads((folder / "data" / "checkpoints" / "history.json").read_text())
    return [row["loss"] for row in rows] if isinstance(rows, list) else rows["loss"]


def test_two_machines_train_one_experiment(cluster: Cluster, tmp_path: Path) -> None:
    a, b = cluster.a, cluster.b
    a.arc("queue", "--list")
    cluster.join(a, mlflow=False)
    cluster.join(b, mlflow=False, PREFECT_API_AUTH_STRING=cluster.secret())
    b.start_worker()
    meeting = f"127.0.0.1:{free_port()}"
    assert "--meeting is ''" in failing(a, "--nodes", "2")
    said = a.arc("run", NAME, *CHOSEN, "--nodes", "2", "--meeting", meeting)
    [helper] = [row for row in a.runs() if "machine 2 of 2" in row["name"]]
    until(lambda: a.state(helper["id"]) in ENDED, 60)
    assert a.state(helper["id"]) == "COMPLETED", (a.states(helper["id"]), a.log(helper["id"])[-20:], said)
    assert [row["stage"] for row in b.record(helper["id"], "stages")][-1] == "train"
    assert not b.sh("git", "for-each-ref", "refs/heads/exp").split(), "the first machine alone has a result"
    alone = Lab(tmp_path / "alone")
    try:
        alone.arc("run", NAME, *CHOSEN)
        ours, one = losses(a), losses(alone)
    finally:
        alone.stop()
    assert len(one) > 0
    print(f"{len(one)} losses, largest difference {max(abs(x - y) for x, y in zip(ours, one, strict=True)):.1e}")
    assert ours == pytest.approx(one, rel=1e-3)


def failing(lab: Lab, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.arc", "run", NAME, *CHOSEN, *options],
        cwd=lab.folder,
        env=lab.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stdout + done.stderr
