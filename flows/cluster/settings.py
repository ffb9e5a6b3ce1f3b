"""What `arc join` has written about the cluster: section `arc` of this clone's git configuration, and a secret file.

Both are outside of what git tracks, and all worktrees of the clone share them. A clone without `arc.remote` has not
joined: it exchanges nothing.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flows.runs import places
from flows.runs.places import FlowError, git
from model.storage.atomic import atomic_path
from tasks.servers import prefect_server

AUTH_VARIABLE = "PREFECT_API_AUTH_STRING"
API = "/api"


@dataclass(frozen=True)
class Settings:
    """The cluster that a clone has joined; empty texts where nothing is set."""

    server: str = ""
    """Address of the API of the Prefect server; empty in the clone that runs the server."""
    mlflow: str = ""
    """Tracking URI of the shared MLflow server; empty for the store that the environment or the clone names."""
    remote: str = ""
    """Name of the shared git remote."""
    saves: str = ""
    """Minutes between two saves of a training that go to the DVC remote; empty if none do."""

    def mlflow_login(self, secret: str) -> dict[str, str]:
        """Environment variables with which MLflow's clients log in: what is set already, else Prefect's secret.

        Both pages of a clone ask for the same secret; an MLflow server on another host than Prefect's never gets it.
        """
        names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        if os.environ.get(names[0]):
            return {name: os.environ.get(name, "") for name in names}
        same = urlsplit(self.mlflow).hostname == urlsplit(self.server or prefect_server.address()).hostname
        return dict(zip(names, secret.split(":", 1), strict=True)) if self.mlflow and same and ":" in secret else {}


def read() -> Settings:
    """The settings of this clone."""
    command = ["git", "config", "--local", "--get-regexp", r"^arc\."]
    done = subprocess.run(command, cwd=places.home(), capture_output=True, text=True)
    rows = (line.partition(" ") for line in done.stdout.splitlines())
    values = {key.removeprefix("arc."): value for key, _, value in rows}
    return Settings(**{name: values.get(name, "") for name in Settings.__dataclass_fields__})


def write(settings: Settings, secret: str) -> None:
    """Save the settings, and the secret of a foreign server in a file of mode 0600."""
    if settings.server:
        path = secret_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_path(path) as part:
            part.touch(mode=0o600)
            part.chmod(0o600)
            part.write_text(f"{secret}\n")
    for name in Settings.__dataclass_fields__:
        value = str(getattr(settings, name))
        if value:
            git("config", "--local", f"arc.{name}", value, cwd=places.home())
        elif getattr(read(), name):
            git("config", "--local", "--unset", f"arc.{name}", cwd=places.home())


def joined() -> bool:
    """Whether this clone exchanges code, files and records with others."""
    return bool(read().remote)


def alone() -> bool:
    """Whether no other machine works on the queue: the server is this clone's, and it has not joined others."""
    return not (joined() or prefect_server.foreign())


def environment() -> dict[str, str]:
    """Environment variables of the cluster for this process and its children. What is set already wins."""
    settings = read()
    variables = {"PREFECT_API_URL": settings.server, "MLFLOW_TRACKING_URI": settings.mlflow}
    chosen = {name: value for name, value in variables.items() if value and not os.environ.get(name)}
    foreign = os.environ.get("PREFECT_API_URL") or settings.server
    if foreign and foreign == settings.server and not os.environ.get(AUTH_VARIABLE):
        # Another server than the joined one must not get this secret.
        chosen[AUTH_VARIABLE] = secret_of(secret_file())
    server = settings.server or prefect_server.address()
    here = os.environ.get("MLFLOW_TRACKING_URI") in (None, "", settings.mlflow)
    if settings.mlflow and here and (foreign or server) == server:
        secret = (
            os.environ.get(AUTH_VARIABLE) or chosen.get(AUTH_VARIABLE) or places.environment().get(AUTH_VARIABLE, "")
        )
        chosen |= settings.mlflow_login(secret)
    return chosen


def secret_file() -> Path:
    """The file with the secret of the joined server, which only this user can read."""
    folder = places.home() / Path(os.environ.get("PREFECT_HOME", ".prefect")).expanduser()
    return folder / "joined-secret"


def secret_of(path: Path) -> str:
    """The secret in a file. Raises FlowError unless it is one line of printable ASCII, for this user only."""
    try:
        mode, text = path.stat().st_mode & 0o777, path.read_text(errors="replace").strip()
    except OSError as error:
        raise FlowError(f"the secret cannot be read: {path}: {error.strerror}; run `arc join` again") from None
    if mode & 0o077:
        raise FlowError(f"{path} has mode {mode:04o}, so others can read the secret; `chmod 600 {path}`")
    if not text or not text.isascii() or not text.isprintable():
        raise FlowError(f"{path} holds no secret; it is one line, which `cat .prefect/secret` prints at the server")
    return text


def api_of(url: str) -> str:
    """The address of the API of a server, given with or without /api at its end. Raises FlowError."""
    text = url.rstrip("/")
    if not text.startswith(("http://", "https://")) or not text.isprintable() or " " in text:
        raise FlowError(f"{url!r} is no address of a server; write it like http://127.0.0.1:4300")
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise FlowError(f"the address holds a password, which lists of processes show; put it into {AUTH_VARIABLE}")
    return text if text.endswith(API) else text + API


def own(api: str) -> bool:
    """Whether an address is that of this clone's own server."""
    return api == prefect_server.address()
