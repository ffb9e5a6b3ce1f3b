"""One run of tests in a forked process, which has imported the large libraries already."""

import contextlib
import importlib
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

LIBRARIES = (
    *("torch", "numpy", "pandas", "pyarrow", "pydantic", "scipy.stats", "safetensors.torch", "yaml", "typer"),
    *("rich.console", "matplotlib.pyplot", "networkx", "dvc.repo", "prefect.workers.process", "mlflow"),
)
ROOT = Path(__file__).parents[2]
MEMORY = 24 * 2**30
"""Bytes of address space: a mutant may ask for a tensor of any size."""


def preload() -> None:
    """Import what most tests need; nothing of ours, which a mutant may change."""
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.modules["torch"].use_deterministic_algorithms(False)  # Imports more of it.


def run(tree: Path, arguments: Sequence[str], log: Path, cpu_seconds: int) -> str:
    """`passed`, `failed`, `timeout` or `crashed`: tests in `tree`, by arguments of pytest, until the first failure."""
    process = os.fork()
    if not process:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
            del sys.modules[name]  # Those of the checkout.
        sys.path[:] = [str(tree), *(name for name in sys.path if name not in ("", str(ROOT)))]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist", "--hypothesis-seed=0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # Of plugins that LIBRARIES have imported.
        code = 3
        try:
            code = int(pytest.main([*options, *arguments]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = _wait(process, 8 * cpu_seconds)  # A test may sleep, and the machine be loaded.
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "timeout"
    if not os.WIFEXITED(status):
        return "crashed"
    code = os.WEXITSTATUS(status)
    return "passed" if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else "failed"


def failed_test(log: Path) -> str | None:
    """The test that failed; None where none could be imported."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+::.*?)(?: - .*)?$", log.read_text(), re.MULTILINE)
    return found[1] if found else None


def _wait(process: int, seconds: float) -> int | None:
    """Status of a process; None if it had to be killed. Whatever it has started is killed."""
    deadline, status = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        ended, code = os.waitpid(process, os.WNOHANG)
        if ended:
            status = code
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if status is None:
        os.waitpid(process, 0)
    return status
