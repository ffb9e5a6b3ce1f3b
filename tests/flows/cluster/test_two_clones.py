"""Two clones on one queue, with real servers: each run once, and all results in every clone."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_lab import Cluster
from tests.support.flows_lab import ENDED, SHORT, until

pytestmark = [pytest.mark.slow, pytest.mark.night]
LABEL = "prefect.worker.name"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.stop()


def test_four_experiments_queued_on_a_run_on_a_and_b(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    cluster.start_servers()
    cluster.join(a)
    cluster.join(b, PREFECT_API_AUTH_STRING=cluster.secret())
    b.start_worker()
    a.start_worker()
    # Not committed anywhere: B can have it by the frozen commit only.
    (a.folder / "flows" / "marker.py").write_text('"""Only in A."""\n')
    a.sh("git", "add", "flows/marker.py")
    runs = a.queue(SHORT, "--seeds", "0,1,2,3")
    assert len(runs) == 4
    until(lambda: all(a.state(run) in ENDED for run in runs), 300)
    rows = {row["id"]: row for row in a.runs()}
    assert {rows[run]["state"]["type"] for run in runs} == {"COMPLETED"}, [a.states(run) for run in runs]
    # Each once: one RUNNING state each, and records in one clone.
    assert all([name for name, _ in a.states(run)].count("Running") == 1 for run in runs)
    where = {run: rows[run]["labels"][LABEL].rpartition("-")[0] for run in runs}
    assert len(set(where.values())) == 2, where
    until(lambda: not list(cluster.a.folder.glob(".scratch/runs/*/unshared")), 60)
    until(lambda: not list(cluster.b.folder.glob(".scratch/runs/*/unshared")), 60)
    night = a.arc("night")
    assert len(re.findall(r"Completed", night)) == 4, night
    assert night.count("by `dvc repro`") == 0, "a run of B is known as one of the queue"
    assert sorted(set(re.findall(r"seed (\d)", night))) == ["0", "1", "2", "3"]
    for clone in (a, b):
        clone.arc("night")
        branches = clone.sh("git", "for-each-ref", "--format=%(refname:short)", "refs/heads/exp").split()
        assert len(branches) == 4
    done = [(name, status) for name, status in a.mlflow() if "train" not in name.split("-")[0]]
    assert {status for _, status in done} == {"FINISHED"}
    assert not (b.folder / "mlflow.db").exists()
    # What was computed once is taken from the remote: one training each, and data of the second run of a clone cached.
    stages = [json.loads(path.read_text()) for c in (a, b) for path in c.folder.glob(".scratch/runs/*/stages.json")]
    assert stages
    # Frozen commits are released at the remote, and A has every file of a result of B.
    until(lambda: not a.sh("git", "ls-remote", "origin", "refs/arc/frozen/*"), 30)
    for branch in branches:
        a.arc("restore", branch)
    kept = list((a.folder / ".scratch" / "restored").glob("*"))
    assert all((folder / "data" / "checkpoints" / "candidates").exists() for folder in kept)
    assert len(kept) == 4


def test_a_dead_workers_run_goes_on_elsewhere_once(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    for clone in (a, b):
        clone.environment["PREFECT_WORKER_HEARTBEAT_SECONDS"] = "2"
    cluster.pause()
    a.arc("queue", "--list")
    cluster.join(a, mlflow=False)
    cluster.join(b, mlflow=False, PREFECT_API_AUTH_STRING=cluster.secret())
    b.start_worker()
    [run] = a.queue(SHORT)
    until(lambda: cluster.pausing(b), 60)
    a.start_worker()
    began = time.monotonic()
    b.worker.kill()
    until(lambda: not b.processes(run), 45)
    ended = time.monotonic() - began
    until(lambda: cluster.pausing(a), 120)
    seconds = time.monotonic() - began
    print(f"B's processes ended after {ended:.1f} s, A went on after {seconds:.1f} s: {a.states(run)}")
    b.start_worker()
    time.sleep(40)  # Two looks at the other workers.
    assert a.state(run) == "RUNNING"
    assert [name for name, _ in a.states(run)].count("Resuming") == 1
    assert len(cluster.pausing(a)) == 1
    assert not b.processes(run)
    a.arc("queue", "--cancel", run[:8])
    until(lambda: a.state(run) == "CANCELLED" and not a.processes(run), 60)
