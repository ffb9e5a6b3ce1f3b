"""PostgreSQL from Debian's package, for a test: its own cluster, on 127.0.0.1, gone afterwards."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "postgres"


@contextlib.contextmanager
def database(folder: Path) -> Iterator[str]:
    """Address of a running, empty database, as Prefect takes it. Skips where the package is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "postgresql"
    data.mkdir()
    # PostgreSQL does not run as root: then the package's user runs it, who must reach the folder.
    root = os.geteuid() == 0
    if root:
        shutil.chown(data, USER)
        for part in (folder, *folder.parents):
            if not part.stat().st_mode & 0o001:
                part.chmod(part.stat().st_mode | 0o011)

    def run(name: str, *arguments: str) -> None:
        command = [str(found[-1] / name), *arguments]
        subprocess.run(
            ["runuser", "-u", USER, "--", *command] if root else command,
            check=True,
            cwd=data,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )

    run("initdb", "-D", str(data / "cluster"), "-U", USER, "--auth=trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    run("pg_ctl", "-D", str(data / "cluster"), "-l", str(data / "log"), "-w", "-o", options, "start")
    try:
        yield f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", str(data / "cluster"), "-m", "immediate", "stop")
