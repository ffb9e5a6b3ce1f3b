"""PostgreSQL from Debian's package, for a test: its own cluster, on 127.0.0.1, gone afterwards."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "postgres"


def installed() -> bool:
    """Whether the package is here."""
    return any(Path("/usr/lib/postgresql").glob("*/bin"))


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Address of a running, empty database, as Prefect takes it. Skips where the package is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # PostgreSQL does not run as root: then the package's user runs it, whom pytest's own folders shut out.
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        if root:
            shutil.chown(data, USER)

        def run(program: str, *arguments: str) -> None:
            command = [str(found[-1] / program), *arguments]
            subprocess.run(
                ["runuser", "-u", USER, "--", *command] if root else command,
                check=True,
                cwd=data,
                stdout=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )

        cluster = ("-D", str(data / "cluster"))
        run("initdb", *cluster, "-U", USER, "--auth=trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
        run("pg_ctl", *cluster, "-l", str(data / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", *cluster, "-m", "immediate", "stop")
