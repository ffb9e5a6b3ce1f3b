"""`make soak N=200`: short experiments in a row through the queue, each whole; nothing may grow with their number.

`python -m tests.flows.soak 200 params` runs the stages up to this one only: for the queue itself, in a quarter of the
time.

A row is printed after every tenth of the runs: memory and open files of worker and server, worktrees, refs, threads,
and the disk without what a new experiment must add (its objects in DVC's cache, its records and its branch). Fails
where the last third of the rows is above the first third by more than the tolerance.
"""

import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.support.flows_lab import SHORT, Lab, until

TOLERANCE = {"worker MiB": 1.1, "server MiB": 1.25, "worker files": 1.1, "server files": 1.25, "threads": 1.25}
"""Allowed quotient of the medians of the last and the first third; what is not named must be equal at the end."""
FLAT = ("worktrees", "frozen refs", "processes")


def main(count: int, last: str | None = None) -> None:
    """Queue `count` experiments that differ in their seed, up to the stage `last` if given, and watch.

    Exits with 1 if something grows.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: ended by SIGTERM"))  # Worker and server end too.
    with tempfile.TemporaryDirectory(prefix="arc-soak-") as folder:
        lab = Lab(Path(folder) / "lab")
        try:
            if last:
                lab.only(last)
            lab.start_worker()
            rows: list[dict[str, float]] = []
            every = max(1, count // 10)
            for start in range(0, count, every):
                seeds = ",".join(str(seed) for seed in range(start, min(count, start + every)))
                runs = lab.queue(SHORT, "--seeds", seeds)
                lab.finish(*runs)
                states = {lab.state(run) for run in runs}
                assert states == {"COMPLETED"}, [lab.states(run)[-1] for run in runs]
                # What closes a run comes after its state.
                until(lambda: not any((lab.folder / ".scratch" / "worktrees").iterdir()), 60)
                rows.append({"runs": start + len(runs), **measured(lab)})
                print("  ".join(f"{name} {value:g}" for name, value in rows[-1].items()), flush=True)
            alarms(lab)
            grown = [*growing(rows)]
        finally:
            lab.stop()
    if grown:
        sys.exit(f"soak: {'; '.join(grown)}")


def measured(lab: Lab) -> dict[str, float]:
    """What must stay flat."""
    server = lab.process(None, "prefect", "server", "start")
    worker = psutil.Process(lab.worker.pid)

    def lines(*command: str) -> int:
        return len(lab.sh(*command).splitlines())

    return {
        "worker MiB": round(worker.memory_info().rss / 2**20),
        "server MiB": round(server.memory_info().rss / 2**20),
        "worker files": worker.num_fds(),
        "server files": server.num_fds(),
        "threads": worker.num_threads(),
        "processes": len(lab.processes()),
        "worktrees": lines("git", "worktree", "list"),
        "frozen refs": lines("git", "for-each-ref", "refs/arc/frozen"),
        "branches": lines("git", "for-each-ref", "refs/heads/exp"),
        "scratch MiB": size(lab.folder / ".scratch"),
        "records MiB": size(lab.folder / ".scratch" / "runs"),
        "cache MiB": size(lab.folder / ".dvc" / "cache"),
        "queue MiB": size(lab.folder / ".prefect"),
    }


def size(folder: Path) -> float:
    """MiB that the files of a folder take on the disk."""
    done = subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True)
    return round(int(done.stdout.split()[0]) / 1024, 1)


def growing(rows: list[dict[str, float]]) -> list[str]:
    """What grew from the first third of the rows to the last one."""
    third = max(1, len(rows) // 3)
    grown = []
    for name, allowed in {**TOLERANCE, **dict.fromkeys(FLAT, 1.0)}.items():
        first, last = (statistics.median(row[name] for row in part) for part in (rows[:third], rows[-third:]))
        if last > first * allowed:
            grown.append(f"{name} grew from {first:g} to {last:g}")
    return grown


def alarms(lab: Lab) -> None:
    """Print warnings and errors in the logs of worker, server and runs, each kind once with its number."""
    seen: dict[str, int] = {}
    logs = [lab.folder / "worker.log", *lab.folder.glob(".prefect/*.log"), *lab.folder.glob(".scratch/runs/*/flow.log")]
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            if any(word in line for word in ("WARNING", "ERROR", "CRITICAL", "Traceback", "Warning:")):
                text = f"{log.name}: {line.split('|', 1)[-1].strip()[:160]}"
                seen[text] = seen.get(text, 0) + 1
    for text, number in sorted(seen.items()):
        print(f"{number} times {text}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
