"""An SSH server on 127.0.0.1 with keys of its own, if `openssh-server` and `dvc-ssh` are installed."""

import contextlib
import getpass
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.flows_lab import until
from tests.support.ports import free_port, listens

SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""
CLIENT = """\
Host 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
"""


@dataclass(frozen=True)
class Server:
    """A running server and what a user of it needs."""

    url: str
    """ssh://USER@127.0.0.1:PORT, to which an absolute path is appended."""
    folder: Path

    def home(self, path: Path, known: bool = True) -> dict[str, str]:
        """Environment of a user whose home is `path`; git's ssh asks the system for the home, so it is told.

        Without `known`, the server has not been given the user's key.
        """
        settings = path / ".ssh" / "config"
        settings.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = (self.folder / "client").read_text()
        settings.write_text(text if known else text.replace(f"{self.folder}/user\n", f"{self.folder}/stranger\n"))
        shutil.copy(self.folder / "known", settings.with_name("known_hosts"))
        return {"HOME": str(path), "GIT_SSH_COMMAND": f"ssh -F {settings} -oBatchMode=yes"}


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server that lets in whoever has the key. Skips where one of the packages is missing."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no SSH server: apt-get install openssh-server")
    if any(importlib.util.find_spec(name) is None for name in ("dvc_ssh", "sshfs")):
        pytest.skip("DVC speaks no SSH: pip install dvc-ssh")
    folder.mkdir()
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port, user = free_port(), getpass.getuser()
    for name, text in {"server": SERVER, "client": CLIENT}.items():
        (folder / name).write_text(text.format(port=port, folder=folder, user=user))
    host = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host}\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Where the server's part without rights lives.
    command = [program, "-D", "-e", "-f", str(folder / "server")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: listens(port), 20)
        yield Server(f"ssh://{user}@127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait()
