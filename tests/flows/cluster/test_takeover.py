"""What dies in a cluster: a machine in training, with all it has; the machine of the servers, for a while."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cluster import owners
from flows.cluster.saves import FOLDER
from tests.support.cluster_lab import Cluster, started
from tests.support.flows_lab import ENDED, LONG, SHORT, SMALL, until

pytestmark = [pytest.mark.slow, pytest.mark.night]
HEARTBEATS_SECONDS = 90.0
UPDATES_A_SECOND = 160
"""More than the training makes, so that it is not over before the servers are back."""
OUTAGE_SECONDS = float(os.environ.get("ARC_TEST_OUTAGE_SECONDS") or "75")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with started(tmp_path) as made:
        yield made


def shared(cluster: Cluster) -> int:
    """Update of the newest shared save; 0 where there is none."""
    return max((int(path.stem.split("-")[1]) for path in cluster.data.glob(f"{FOLDER}/*/save-*.json")), default=0)


def test_a_training_goes_on_elsewhere_from_the_last_shared_save(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    a.arc("queue", "--list")
    cluster.join(a, "--share-saves", "0.1", mlflow=False)
    cluster.join(b, "--share-saves", "0.1", mlflow=False, PREFECT_API_AUTH_STRING=cluster.secret())
    b.start_worker()
    [run] = a.queue({**LONG, "train.optimizer_steps": 500000})
    until(lambda: b.training(run), 120)
    a.start_worker()
    watching = time.monotonic()
    until(lambda: shared(cluster) >= 100, 120)
    # As long as A has worked for a while, which it has in a cluster: it takes over nothing in its first two minutes.
    time.sleep(max(0.0, owners.RETURN_HEARTBEATS * 30 + 5 - (time.monotonic() - watching)))
    assert a.state(run) == "RUNNING"
    assert not a.training(run)
    kept, known, began, clock = shared(cluster), b.step(run), time.monotonic(), time.time()
    for process in [p for p in b.processes() if b.alive(p)]:
        process.kill()
    until(lambda: a.resumed_from(run), HEARTBEATS_SECONDS + 60)
    seconds, step = time.monotonic() - began, a.resumed_from(run)
    print(f"A went on {seconds:.0f} s after B's end, after update {step}; B had reported {known}, {known - step} lost")
    print("\n".join(f"{at - clock:6.1f} s {text}" for at, text in a.timed_log(run) if at > clock))
    assert seconds < HEARTBEATS_SECONDS + 60
    assert step >= kept > 0
    assert [name for name, _ in a.states(run)].count("Resuming") == 1
    rows = {row["stage"]: row["cached"] for row in a.record(run, "stages")}
    assert all(rows[stage] for stage in ("fetch", "prepare", "augment")), rows
    a.arc("queue", "--cancel", run[:8])
    until(lambda: a.state(run) == "CANCELLED" and not a.processes(run), 60)


def test_trainings_go_on_while_the_servers_machine_is_gone(cluster: Cluster) -> None:
    a, b = cluster.a, cluster.b
    cluster.start_servers()
    cluster.join(a)
    cluster.join(b, PREFECT_API_AUTH_STRING=cluster.secret())
    b.start_worker()
    steps = int(UPDATES_A_SECOND * OUTAGE_SECONDS)
    [run] = a.queue({**SMALL, "train.optimizer_steps": steps, "train.log_every": 20})
    [waiting] = a.queue(SHORT, "--seeds", "1")
    until(lambda: b.step(run) >= 100, 180)
    for process in [p for p in a.processes() if a.alive(p)]:
        process.kill()
    cluster.kill_mlflow()
    gone, before = time.monotonic(), b.saved()
    time.sleep(OUTAGE_SECONDS / 2)
    middle = b.saved()
    time.sleep(OUTAGE_SECONDS / 2)
    reached = b.saved()
    print(f"without the servers for {time.monotonic() - gone:.0f} s: updates {before}, {middle}, {reached}")
    assert before < middle < reached, "the training goes on"
    cluster.start_servers()
    until(lambda: a.state(run) in ENDED and a.state(waiting) in ENDED, 600)
    for one in (run, waiting):
        states = [name for name, _ in a.states(one)]
        assert a.state(one) == "COMPLETED", a.states(one)
        assert states.count("Running") == 1, a.states(one)
    trainings = [row for row in b.record(run, "stages") if row["stage"] == "train"]
    assert [row["outcome"] for row in trainings] == ["done"]
    until(lambda: len(cluster.branches()) == 2, 60)
    a.arc("night")
    branches = a.sh("git", "for-each-ref", "--format=%(refname:short)", "refs/heads/exp").split()
    assert len(branches) == 2
    assert [status for _, status in a.mlflow()] == ["FINISHED", "FINISHED"]
    assert not list(cluster.data.glob(f"{FOLDER}/*/save-*"))
