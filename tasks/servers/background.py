"""The pages in the background: `arc ui --detach` starts them, `arc ui --stop` ends them."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from model.storage.atomic import write_json
from tasks.common import paths
from tasks.common.documents import read_json
from tasks.common.stage import StageError
from tasks.servers import private_log, process_identity
from tasks.servers.process_identity import Identity

LOG = paths.SCRATCH / "ui" / "pages.log"
RECORD = paths.SCRATCH / "ui" / "pages.json"
"""The process that holds the pages."""
READY = "Ctrl-C"
"""In its last line once both pages answer."""
START_SECONDS = 240
STOP_SECONDS = 30


def detach(arguments: Sequence[str]) -> None:
    """Start `arc ui` with these arguments in the background, and print what it prints once it is ready.

    Raises StageError if it ends with an error.
    """
    if process := recorded():
        print(f"process {process.pid} has the pages; `arc ui --stop` ends it:\n{_log()}", end="")
        return
    with private_log.create(LOG) as file:
        # The shell ends at once, so the pages have no parent whose end would end them (see `die_with_parent`).
        command = ["sh", "-c", '"$@" >"$0" 2>&1 & echo $!', str(LOG)]
        command += [sys.executable, "-m", "tasks.servers.ui", *arguments]
        started = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True
        )
    if identity := process_identity.identity(int(started.stdout)):
        write_json(RECORD, identity.model_dump())
    deadline = time.monotonic() + START_SECONDS
    while READY not in _log() and recorded():
        if time.monotonic() > deadline:
            raise StageError(f"the pages do not answer after {START_SECONDS} s; see {LOG}")
        time.sleep(0.2)
    print(_log().replace(f"{READY} ends what was started here", "`arc ui --stop` ends what was started here"), end="")
    if not recorded() and "(ran already)" not in _log():
        raise StageError(f"the pages ended at once; see {LOG}")


def stop() -> None:
    """End what `detach` started. Raises StageError if nothing was, or if it does not end."""
    process = recorded()
    if process is None:
        raise StageError(
            "no pages run in the background here; Ctrl-C ends those of `arc ui`, and a server that `arc worker` or "
            "`arc queue` started runs on for the queue"
        )
    process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while recorded():  # Not `wait`: where nobody collects the dead, as in many containers, it stays a zombie.
        if time.monotonic() > deadline:
            raise StageError(f"process {process.pid} does not end; see {LOG}")
        time.sleep(0.1)
    RECORD.unlink(missing_ok=True)
    print(f"ended process {process.pid} and its pages")


def recorded(path: Path = RECORD) -> psutil.Process | None:
    """The process that `detach` started; None if it has ended."""
    try:
        return process_identity.find(Identity.model_validate(read_json(path)))
    except (OSError, ValueError):
        return None


def _log() -> str:
    return LOG.read_text(errors="replace") if LOG.exists() else ""
