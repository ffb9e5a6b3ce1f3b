"""A thousand queued runs of one second on PostgreSQL with ten workers: throughput, order, nothing lost or doubled.

ARC_TEST_RUNS and ARC_TEST_WORKERS set other numbers.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_lab import Cluster
from tests.support.flows_lab import NAME, SHORT, Lab, until
from tests.support.postgresql import database

pytestmark = [pytest.mark.slow, pytest.mark.night]
RUNS = int(os.environ.get("ARC_TEST_RUNS") or "1000")
WORKERS = int(os.environ.get("ARC_TEST_WORKERS") or "10")


def test_a_thousand_runs_on_ten_workers(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(database())
        cluster = Cluster(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=address)
        stack.callback(cluster.stop)
        a, b = cluster.a, cluster.b
        a.arc("queue", "--list")
        cluster.join(a, mlflow=False)
        cluster.join(b, mlflow=False, PREFECT_API_AUTH_STRING=cluster.secret())
        a.arc("queue", "--list")
        began = time.monotonic()
        chosen = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
        lines = a.arc("queue", NAME, *chosen, "--seeds", ",".join(map(str, range(RUNS)))).splitlines()
        queued = [line.split()[1] for line in lines if line.startswith("queued")]
        print(f"{RUNS} runs queued in {time.monotonic() - began:.0f} s")
        assert len(set(queued)) == RUNS
        log = stack.enter_context((b.folder / "workers.log").open("wb"))
        command = [sys.executable, "-m", "tests.support.sleeping_worker", "1"]
        workers = [
            subprocess.Popen(command, cwd=b.folder, env=b.environment, stdout=log, stderr=log) for _ in range(WORKERS)
        ]
        for worker in workers:
            stack.callback(worker.kill)
        while (left := waiting(a)) and all(worker.poll() is None for worker in workers):
            print(f"{time.monotonic() - began:.0f} s: {left} left", flush=True)
            time.sleep(20)
        assert not left, (b.folder / "workers.log").read_text()[-3000:]
        report(a, queued)
        print(f"the database has {size(address) / 1e6:.0f} MB")


def size(address: str) -> int:
    """Bytes of the database."""
    [psql] = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"))[-1:]
    plain = address.replace("+asyncpg", "")
    command = [str(psql), plain, "-Atc", "select pg_database_size(current_database())"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def waiting(lab: Lab) -> int:
    """Number of runs that have not ended."""
    types = {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}
    return int(until(lambda: [lab.api("/flow_runs/count", {"flow_runs": {"state": types}})], 300)[0])


def report(lab: Lab, queued: list[str]) -> None:
    """Check the runs and print the figures."""
    rows: list[dict[str, Any]] = []
    while page := lab.api("/flow_runs/filter", {"limit": 200, "offset": len(rows), "sort": "ID_DESC"}):
        rows += page
    assert len(rows) == RUNS
    assert Counter(row["state"]["type"] for row in rows) == {"COMPLETED": RUNS}
    assert {row["run_count"] for row in rows} == {1}, "each once"
    start = {row["id"][:8]: datetime.fromisoformat(row["start_time"]) for row in rows}
    order = sorted(queued, key=lambda run: start[run])
    moved = {run: abs(order.index(run) - place) for place, run in enumerate(queued)}
    far = [run for run in queued if moved[run] > 3 * WORKERS]
    whole = {row["id"][:8]: row["id"] for row in rows}
    states = {run: lab.states(whole[run]) for run in far}
    for run in far:
        print(f"{run} started {moved[run]} places from its own: {states[run]}")
    seconds = (max(datetime.fromisoformat(row["end_time"]) for row in rows) - min(start.values())).total_seconds()
    by_worker = Counter(row["labels"]["prefect.worker.name"] for row in rows)
    print(
        f"{RUNS} runs of 1 s on {len(by_worker)} workers in {seconds:.0f} s: {60 * RUNS / seconds:.0f} a minute; "
        f"each worker {min(by_worker.values())} to {max(by_worker.values())}; {len(far)} started more than "
        f"{3 * WORKERS} places from their own, the others up to {max(n for r, n in moved.items() if r not in far)}"
    )
    server = lab.process(None, "server", "start")
    print(f"the server took {sum(server.cpu_times()[:2]):.0f} s of the CPU and {server.memory_info().rss >> 20} MiB")
    late = [run for run in far if not any("died" in message for _, message in states[run])]
    assert not late, "only a run whose worker failed to start it may start late"
    assert len(far) <= RUNS / 100
