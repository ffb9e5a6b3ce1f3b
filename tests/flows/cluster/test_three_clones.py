"""A night on three machines: twelve experiments queued on one run on all, each once, and every clone shows all."""

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_lab import Cluster, started
from tests.support.flows_lab import ENDED, SHORT, Lab, until

pytestmark = [pytest.mark.slow, pytest.mark.night]
LABEL = "prefect.worker.name"
COUNT = int(os.environ.get("ARC_TEST_EXPERIMENTS") or "12")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with started(tmp_path, third=True) as made:
        yield made


def test_twelve_experiments_run_on_three_machines(cluster: Cluster) -> None:
    a, clones = cluster.a, [cluster.a, *cluster.others]
    cluster.start_servers()
    cluster.join(a)
    for other in cluster.others:
        cluster.join(other, PREFECT_API_AUTH_STRING=cluster.secret())
    for clone in clones:
        clone.start_worker()
    began = time.monotonic()
    runs = a.queue(SHORT, "--seeds", ",".join(map(str, range(COUNT))))
    assert len(runs) == COUNT
    until(lambda: all(a.state(run) in ENDED for run in runs), 1800, every=2)
    print(f"{COUNT} runs took {time.monotonic() - began:.0f} s")
    rows = {row["id"]: row for row in a.runs()}
    assert {rows[run]["state"]["type"] for run in runs} == {"COMPLETED"}, [a.states(run) for run in runs]
    assert all([name for name, _ in a.states(run)].count("Running") == 1 for run in runs)
    where = {run: rows[run]["labels"][LABEL].rpartition("-")[0] for run in runs}
    counts = [list(where.values()).count(name) for name in sorted(set(where.values()))]
    print(f"runs by machine: {counts}")
    assert len(counts) == 3
    until(lambda: len(cluster.branches()) == COUNT, 60)
    for clone in clones:  # Their records follow.
        until(lambda clone=clone: not list(clone.folder.glob(".scratch/runs/*/unshared")), 60)
    assert computed(clones, "fetch") == 1, "all twelve need the same data"
    assert computed(clones, "train") == COUNT
    for clone in clones:
        night = clone.arc("night")
        scores = re.findall(r"│ \d+\.\d \[\d+\.\d–\d+\.\d\] │ v3/tiny/aa1-6x6 .* seed (\d+)", night)
        assert sorted(map(int, scores)) == list(range(COUNT)), night
        branches = clone.sh("git", "for-each-ref", "--format=%(refname:short)", "refs/heads/exp").split()
        assert len(branches) == COUNT
    assert {status for _, status in a.mlflow()} == {"FINISHED"}
    with sqlite3.connect(a.folder / "mlflow.db") as connection:
        query = "select count(distinct value) from tags where key = 'arc.branch'"
        assert connection.execute(query).fetchone() == (COUNT,)
    assert not any((clone.folder / "mlflow.db").exists() for clone in cluster.others)


def computed(clones: list[Lab], stage: str) -> int:
    """How often a stage was computed on all machines, by the records of the runs that each executed."""
    count = 0
    for clone in clones:
        for path in clone.folder.glob(".scratch/runs/*/stages.json"):
            if not (path.parent / "fetched").exists():
                count += sum(row["stage"] == stage and not row["cached"] for row in json.loads(path.read_text()))
    return count
