"""Two clones on one queue, with real servers: each run once, and all results in every clone."""

import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_lab import Cluster, started
from tests.support.flows_lab import ENDED, SHORT, until

pytestmark = [pytest.mark.slow, pytest.mark.night]
LABEL = "prefect.worker.name"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with started(tmp_path) as made:
        yield made


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
    until(lambda: len(cluster.branches()) == 4, 60)
    until(lambda: not list(cluster.a.folder.glob(".scratch/runs/*/unshared")), 60)
    until(lambda: not list(cluster.b.folder.glob(".scratch/runs/*/unshared")), 60)
    all_is_everywhere(cluster)


def all_is_everywhere(cluster: Cluster) -> None:
    """Every clone shows the four runs with their scores, has their branches, and gets their files."""
    a, b = cluster.a, cluster.b
    for clone in (a, b):
        night = clone.arc("night")
        scores = re.findall(r"│ \d+\.\d \[\d+\.\d–\d+\.\d\] │ v3/tiny/aa1-6x6 .* seed (\d)", night)
        assert sorted(scores) == ["0", "1", "2", "3"], night
        branches = clone.sh("git", "for-each-ref", "--format=%(refname:short)", "refs/heads/exp").split()
        assert len(branches) == 4
    # MLflow's server has them all, and B made no store of its own.
    assert {status for _, status in a.mlflow()} == {"FINISHED"}
    with sqlite3.connect(a.folder / "mlflow.db") as connection:
        query = "select count(distinct value) from tags where key = 'arc.branch'"
        assert connection.execute(query).fetchone() == (4,)
    assert not (b.folder / "mlflow.db").exists()
    until(lambda: not a.sh("git", "ls-remote", "origin", "refs/arc/frozen/*"), 30)
    for branch in branches:
        a.arc("restore", branch)
    restored = list((a.folder / ".scratch" / "restored").glob("*"))
    assert len(restored) == 4
    for folder in restored:
        assert list((folder / "data" / "checkpoints" / "candidates").rglob("*.safetensors"))


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
