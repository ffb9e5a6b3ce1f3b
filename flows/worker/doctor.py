"""`arc doctor`: checks of this machine and checkout, each finding with its fix."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from flows.cluster import checks, dvc_remote, owners, settings
from flows.queue import flow_runs
from flows.runs import places, snapshots
from flows.runs.places import FlowError, git, one_line
from flows.worker import server
from tasks.common import paths
from tasks.common.documents import DocumentError, check_folder, read_json
from tasks.machine import gpu_lock
from tasks.servers import prefect_server

TESTED = {"prefect": "3.8", "mlflow": "3.17", "dvc": "3.67", "torch": "2.1"}
"""Tested versions, as prefixes."""


@dataclass(frozen=True)
class Finding:
    """Result of a check. `fix` is empty if nothing is wrong."""

    what: str
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Run every check. A check that raises becomes a finding itself."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check()
        except FlowError as error:
            findings.append(Finding(check.__name__, str(error), "see the message"))
        except Exception as error:  # A check of damaged things may fail in any way; the others still run.
            text = f"{type(error).__name__}: {one_line(error)}"
            findings.append(Finding(check.__name__, text, "the check itself failed; see the message"))
    return findings


def disk() -> Iterator[Finding]:
    """Free space of each file system where results, scratch, databases and temporary files are written."""
    from flows.worker import hold

    limit = hold.limit_gib()
    for name, path in hold.folders().items():
        free = shutil.disk_usage(path).free / 2**30
        held = f"; below {limit:g} GiB `arc worker` holds the queue ({hold.LIMIT_VARIABLE})" if free < limit else ""
        yield Finding(
            "disk", f"{free:.1f} GiB free at {path} ({name}){held}", advice(path) if free < checks.FREE_GIB else ""
        )


def advice(path: Path) -> str:
    """What may be deleted on the file system of `path`."""
    from flows.worker import hold

    cache, scratch, device = hold.cache(places.home()), places.scratch(), path.stat().st_dev
    advices = []
    if cache.exists() and cache.stat().st_dev == device:
        # Objects of a run that has not ended are named by the lock of its worktree alone.
        worktrees = "".join(f" -p {shlex.quote(str(tree))}" for tree in sorted((scratch / "worktrees").glob("*")))
        branches = "delete exp/ branches that nobody needs, then, while no run is active, "
        advices.append(f"{branches}`dvc gc --workspace --all-branches{worktrees}`")
    if scratch.exists() and scratch.stat().st_dev == device:
        advices.append(f"delete folders of trainings that nobody will resume in {scratch / 'train'}")
    return ", or ".join(advices) or f"delete what nobody needs on the file system of {path}"


def gpu() -> Iterator[Finding]:
    """Processes on the GPUs, and whether they hold this project's lock."""
    if not shutil.which("nvidia-smi"):
        yield Finding("gpu", "no nvidia-smi: the CPU is used")
        return
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)
    if done.returncode:
        yield Finding("gpu", f"nvidia-smi: {done.stdout.strip()}", "repair the driver; a reboot often does")
        return
    for line in done.stdout.splitlines():
        pid, memory = (part.strip() for part in line.split(","))
        ours = any(owner.get("process") == int(pid) for owner in _holders().values())
        fix = "" if ours else f"if nobody needs it: `kill {pid}`"
        yield Finding("gpu", f"process {pid} uses {memory} MiB{'' if ours else ', without our lock'}", fix)
    yield Finding("gpu", f"{len(done.stdout.splitlines())} processes on the GPUs")


def own() -> Iterator[Finding]:
    """Whether data/own holds regular files only: DVC hashes it before any stage runs, and waits for a FIFO."""
    try:
        check_folder(places.home() / paths.OWN)
    except DocumentError as error:
        yield Finding("data/own", str(error), "remove it; `dvc repro` would wait for it, or follow it")


def locks() -> Iterator[Finding]:
    """Holders of GPU locks, and locks of DVC and git whose owner is dead."""
    for name, owner in _holders().items():
        yield Finding("lock", f"{name} {gpu_lock.describe(owner)}")
    folders = [places.home(), *(places.scratch() / "worktrees").glob("*")]
    for folder in folders:
        lock = folder / ".dvc" / "tmp" / "rwlock"
        for pid in _dvc_owners(lock):
            if not psutil.pid_exists(pid):
                yield Finding("lock", f"{lock} belongs to process {pid}, which is dead", f"`rm {lock}`")
    index = places.home() / ".git" / "index.lock"
    if index.exists() and time.time() - index.stat().st_mtime > 600:
        yield Finding("lock", f"{index} is older than 10 minutes", f"if no git command is running: `rm {index}`")


def ports() -> Iterator[Finding]:
    """Whether the server answers, and whether another program uses its port."""
    server.find()
    if server.answers():
        if server.ours():
            server.check_secret()
            yield Finding("server", f"answers at {server.address()}")
        else:
            yield Finding("server", f"the server at {server.address()} belongs to another checkout", server.FREE_PORT)
        return
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.settimeout(1)
        probe.connect((prefect_server.host(), prefect_server.port()))
        yield Finding(
            "server",
            f"port {prefect_server.port()} is used by another program",
            server.FREE_PORT,
        )
        return
    yield Finding("server", f"none at {server.address()}", "`arc worker` starts one")


def worker() -> Iterator[Finding]:
    """Whether `arc worker` is running here."""
    # By its lock, since PIDs are reused.
    if row := gpu_lock.holder(places.scratch() / "worker.lock"):
        yield Finding("worker", f"process {row['process']} since {row['since']}")
    else:
        yield Finding("worker", "no worker is running", "start `arc worker` if runs are waiting")


def runs() -> Iterator[Finding]:
    """Runs that Prefect shows as active but are dead, and worktrees without a run."""
    if not (server.answers() and server.ours()):
        return
    os.environ["PREFECT_API_URL"] = server.address()
    from flows.queue import deployment
    from flows.runs import processes

    with deployment.client() as connection:
        active = {str(run.id): run for run in flow_runs.runs(connection, *flow_runs.ACTIVE)}
        waiting = {str(run.id) for run in flow_runs.runs(connection, *flow_runs.WAITING)}
    for name, run in active.items():
        alive = processes.living(name)
        if not owners.here(run):
            yield Finding("run", f"{run.name}: {run.state.name} at {owners.owner(run) or 'no worker yet'}")
        elif not alive and run.state.name not in ("Pending", "Submitting"):
            yield Finding("run", f"{run.name} is shown as {run.state.name} but is dead", "restart `arc worker`")
        else:
            yield Finding("run", f"{run.name}: {run.state.name}, {len(alive)} processes")
    living = {snapshots.foreground_name(process) for process in psutil.process_iter()}
    for path in sorted((places.scratch() / "worktrees").glob("*")):
        if path.name not in {*active, *waiting, *living}:
            yield Finding("worktree", f"{path} has no run", "`arc worker` removes it when it starts")


def results() -> Iterator[Finding]:
    """Whether DVC's cache and the MLflow store hold the results of all exp/ branches."""
    from flows.worker import kept_results

    whole = True
    for name, missing in kept_results.lost_by_branch():
        if settings.joined() and dvc_remote.configured(places.home()):
            continue  # Another machine may have made it; `dvc pull` gets it from the remote.
        whole = False
        text = f"{name}: DVC's cache lacks {len(missing)} outputs, such as {missing[0]}"
        yield Finding("result", text, f"`git switch {name} && dvc repro` computes them again")
    if unpublished := kept_results.unpublished():
        names = ", ".join(list(unpublished)[:3])
        yield Finding("result", f"the MLflow store lacks {len(unpublished)} branches, such as {names}", "`arc publish`")
    elif whole:
        yield Finding("result", f"{len(kept_results.branches())} exp/ branches, whole in DVC's cache and in MLflow")


def cluster() -> Iterator[Finding]:
    """Each piece of the cluster that this clone has joined; nothing if it has joined none."""
    joined = settings.read()
    if not joined.remote:
        return
    for row in checks.rows(
        joined, places.environment().get(settings.AUTH_VARIABLE) or os.environ.get(settings.AUTH_VARIABLE, "")
    ):
        if row[0] != "space":  # `disk` says more.
            yield Finding(*row)


def versions() -> Iterator[Finding]:
    """Installed versions, compared with the tested ones."""
    for name, tested in TESTED.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield Finding("version", f"{name} is not installed", "`make setup`")
            continue
        fix = "" if installed.startswith(tested) else f"tested with {tested}*; install that version if something fails"
        yield Finding("version", f"{name} {installed}", fix)
    yield Finding("version", git("--version"))


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    disk,
    gpu,
    own,
    locks,
    ports,
    worker,
    runs,
    results,
    cluster,
    versions,
)


def _holders() -> dict[str, dict[str, object]]:
    paths = sorted(gpu_lock.folder().glob("*.lock"))
    return {path.stem: owner for path in paths if (owner := gpu_lock.holder(path))}


def _dvc_owners(path: Path) -> set[int]:
    if not path.exists():
        return set()
    rows = (read_json(path) if path.stat().st_size else {}).values()
    entries = [entry for row in rows for entry in ([row["write"]] if row.get("write") else []) + row.get("read", [])]
    return {int(entry["pid"]) for entry in entries}
