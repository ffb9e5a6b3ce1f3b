"""The Prefect server of this machine, started on demand; it listens on 127.0.0.1 unless configured otherwise."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from filelock import FileLock

from flows.runs import places
from flows.runs.places import FlowError
from tasks.servers import prefect_server, ui

START_SECONDS = 120.0
"""In which a server that starts answers, or at least uses a second of CPU time: a loaded machine gives it little."""
START_CPU_SECONDS = 60.0
"""In which it answers at the latest; an idle machine needs 7."""
FREE_PORT = "set PREFECT_SERVER_API_PORT to a free port, for every command here"


def address() -> str:
    """Address of the API: PREFECT_API_URL if set, else that of this machine's server."""
    return os.environ.get("PREFECT_API_URL") or prefect_server.address()


def answers(seconds: float = 2.0) -> bool:
    """Whether the server answers within `seconds`."""
    return prefect_server.status(f"{address()}/health", seconds=seconds) == 200


def ours() -> bool:
    """Whether the server on the port belongs to this checkout; runs of another checkout must not be recovered here."""
    if os.environ.get("PREFECT_API_URL"):
        return True  # Chosen by the user.
    process = listener()
    with contextlib.suppress(psutil.Error):
        return process is not None and ui.prefect_page().ours(process)
    return False


def find() -> None:
    """Set PREFECT_SERVER_API_PORT to the port of this checkout's server, if one runs on another than the configured.

    `make ui` takes the next free port where another program has 4200; a second server would use the same database.
    """
    if prefect_server.foreign() or (answers() and ours()):
        return
    running = ui.running(ui.prefect_page())
    if running and running != prefect_server.port():
        os.environ["PREFECT_SERVER_API_PORT"] = str(running)
        os.environ.update(places.environment())  # Origins that may call it hold the port.


def listener() -> psutil.Process | None:
    """The process of this user that listens on the port; None if there is none."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            listens = {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
            if prefect_server.port() in listens:
                return process
    return None


def ensure() -> None:
    """Start the server unless it answers, and wait until it does. Raises FlowError.

    The server outlives the command that starts it, since runs need it until they end.
    """
    find()
    if answers():
        if not ours():
            raise FlowError(f"the server at {address()} belongs to another checkout; {FREE_PORT}")
        check_secret()
        return
    if prefect_server.foreign():
        raise FlowError(f"{address()} (PREFECT_API_URL) does not answer; start that server, or unset the variable")
    # Two simultaneous commands must not start two servers on one port and database.
    with FileLock(_file("lock"), mode=0o600):
        if not answers():
            _start()
            print(f"started Prefect's server at {address()}; `arc worker --stop` ends it", file=sys.stderr)


def check_secret() -> None:
    """Raise FlowError unless this machine's server accepts our secret and refuses whoever has none."""
    if prefect_server.foreign():
        return
    key = places.environment()["PREFECT_API_AUTH_STRING"]
    # An answer may be late while the server is busy: 0 says nothing.
    accepted, open_to_all = (prefect_server.status(f"{address()}/admin/version", secret) for secret in (key, None))
    if accepted == 401:
        why = f"refuses the secret in {secret_file()}"
    elif open_to_all == 200:
        why = "was started without a secret, so anybody may use it"
    else:
        return
    process = listener()
    end = f"`kill {process.pid}`" if process else "end it"
    again = f"{end} once its runs have ended, and `arc worker` starts it again"
    raise FlowError(f"the server at {address()} {why}; {again}")


def secret_file() -> Path:
    """The file with the secret that Prefect's page asks for once."""
    return prefect_server.secret_file(Path(places.environment()["PREFECT_HOME"]))


def _start() -> None:
    log = _file("log")
    log.touch(mode=0o600)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.servers.calm", "prefect", "server", "start"],
            cwd=places.home(),
            env={
                **os.environ,
                **places.environment(),
                # With --port instead, the page would look for the API at the default port.
                "PREFECT_SERVER_API_HOST": prefect_server.host(),
                "PREFECT_SERVER_API_PORT": str(prefect_server.port()),
            },
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            umask=0o077,  # Databases and logs are for this user.
        )
    for path in log.parent.glob("*.db*"):
        path.chmod(0o600)
    began, moved, used = time.monotonic(), time.monotonic(), 0.0
    while not answers():
        if process.poll() is not None:
            raise FlowError(f"the server ended at once; {log} ends with: {log.read_text().strip().splitlines()[-1:]}")
        if (now := cpu_seconds(process.pid)) >= used + 1:
            moved, used = time.monotonic(), now
        if time.monotonic() - moved > START_SECONDS or used > START_CPU_SECONDS:
            took = f"{time.monotonic() - began:.0f} s and {used:.0f} s of CPU time"
            raise FlowError(f"the server does not answer at {address()} after {took}; see {log}")
        time.sleep(0.2)


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used; 0 if it has ended."""
    try:
        used = psutil.Process(process).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _file(suffix: str) -> Path:
    return Path(places.environment()["PREFECT_HOME"]) / f"server.{suffix}"
