"""Where the lab lives: the main checkout, what its runs share, and the environment that they get."""

import os
import subprocess
import sys
from pathlib import Path

from tasks.tracking.addresses import addressable, sqlite_address


class FlowError(RuntimeError):
    """Something that a flow or a command cannot do. The message says what, where and what to do."""


def git(*arguments: str, cwd: Path | None = None, given: str | None = None, **variables: str) -> str:
    """Standard output of git, stripped. Raises FlowError with git's own words."""
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, input=given, capture_output=True, text=True, env={**os.environ, **variables}
    )
    if done.returncode:
        raise FlowError(f"git {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def tree() -> Path:
    """The checkout of the current folder, whose code and parameters are submitted."""
    return Path(git("rev-parse", "--path-format=absolute", "--show-toplevel"))


def home() -> Path:
    """The main checkout: it keeps the caches, scratch and databases of all its worktrees."""
    known = os.environ.get("ARC_HOME")
    return Path(known or Path(git("rev-parse", "--path-format=absolute", "--git-common-dir")).parent)


def scratch() -> Path:
    """Resume states, costs, worktrees and records of runs; ARC_SCRATCH if set."""
    return (home() / os.environ.get("ARC_SCRATCH", ".scratch")).resolve()


def folder_of(run: str) -> Path:
    """What is kept of a flow run: process, progress, stages, deaths."""
    return scratch() / "runs" / run


def worktree_of(run: str) -> Path:
    """Where a flow run runs."""
    return scratch() / "worktrees" / run


def environment() -> dict[str, str]:
    """What every process of ours needs to find the same places from any folder, and to stay silent on the network."""
    root = home()
    prefect_home = Path(os.environ.get("PREFECT_HOME", ".prefect")).expanduser()
    return {
        "ARC_HOME": str(root),
        "ARC_SCRATCH": str(scratch()),
        "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(root / "mlflow.db"),
        "PREFECT_HOME": str(addressable(root) / prefect_home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }
