"""Folders of the main checkout and of its runs, and the environment variables that runs inherit."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from tasks.servers import prefect_server
from tasks.tracking.addresses import addressable, sqlite_address

DURABLE = ("-c", "core.fsync=committed,reference")
"""A frozen commit and the branch of a result must survive a power cut; git leaves both to the system otherwise."""


class FlowError(RuntimeError):
    """An error that the user can correct. The message says what, where and what to do."""


def one_line(error: BaseException | str) -> str:
    """An error as one printable line of at most 300 characters."""
    text = str(error) or type(error).__name__
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def git(*arguments: str, cwd: Path | None = None, stdin: str | None = None, **variables: str) -> str:
    """Run git and return its standard output, stripped. Raises FlowError with git's message.

    `stdin` is written to its standard input; `variables` are added to its environment."""
    done = subprocess.run(
        ["git", *DURABLE, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",  # The name of a file may be any bytes.
        env={**os.environ, **variables},
    )
    if done.returncode:
        raise FlowError(f"git {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def tree() -> Path:
    """The checkout of the current folder, whose code and parameters are submitted."""
    return Path(git("rev-parse", "--path-format=absolute", "--show-toplevel"))


def home() -> Path:
    """The main checkout, which holds the caches, scratch and databases of all its worktrees; ARC_HOME if set."""
    configured = os.environ.get("ARC_HOME")
    return Path(configured or Path(git("rev-parse", "--path-format=absolute", "--git-common-dir")).parent)


def scratch() -> Path:
    """Folder of resume states, costs, worktrees and run records; ARC_SCRATCH if set."""
    return (home() / os.environ.get("ARC_SCRATCH", ".scratch")).resolve()


def folder_of(run: str) -> Path:
    """Folder with the records of a flow run: process, progress, stages, deaths, events."""
    return scratch() / "runs" / run


def worktree_of(run: str) -> Path:
    """The git worktree in which a flow run executes."""
    return scratch() / "worktrees" / run


def mlflow_port() -> int:
    """Port of MLflow's page in links: ARC_MLFLOW_PORT, or 5000. Raises ValueError unless it is a port."""
    return prefect_server.port_of("ARC_MLFLOW_PORT", 5000)


def _remembered_by_dvc() -> Path:
    """DVC's site cache, which it reads by pickle, and by default from /var/tmp/dvc, where every user may write."""
    folder = scratch() / "dvc-site"
    with contextlib.suppress(OSError):  # DVC says so where it is needed.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def environment() -> dict[str, str]:
    """Environment variables with which every process finds the same folders and servers, and telemetry is off."""
    root = home()
    prefect_home = addressable(root) / Path(os.environ.get("PREFECT_HOME", ".prefect")).expanduser()
    try:
        server = prefect_server.settings(prefect_home)
        mlflow_port()
    except ValueError as error:
        raise FlowError(str(error)) from None
    return {
        # A proxy is for other machines, also where the server of this one was chosen by PREFECT_API_URL.
        **prefect_server.without_proxy(),
        **server,
        "ARC_HOME": str(root),
        "ARC_SCRATCH": str(scratch()),
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(root / "mlflow.db"),
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(_remembered_by_dvc()),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }
