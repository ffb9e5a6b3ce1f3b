"""`python -m flows.cluster.stage NAME`: `dvc repro` of one stage where several machines share a DVC remote.

It waits while the remote is away, takes what another machine has computed or computes at this moment, and pushes what
it computes. Resume states of a training come from the remote and go there, where this is wanted.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dvc import cli
from dvc.exceptions import DvcException
from dvc.stage.exceptions import StageCmdFailedError

from flows.cluster import dvc_remote, saves
from flows.cluster.remote_store import RemoteStore
from flows.runs.places import FlowError, one_line
from tasks.common import paths

AWAY_SECONDS = 10.0
"""Between two looks at a remote that is away."""
TRAIN = "train"


class _StageFailed(logging.Handler):
    """Whether DVC reported that the stage's own command failed."""

    seen = False

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        while error:
            self.seen |= isinstance(error, StageCmdFailedError)
            error = error.__cause__ or error.__context__


def main(name: str) -> int:
    """Run the stage; the exit code of `dvc repro`."""
    failed = _StageFailed()
    logging.getLogger("dvc").addHandler(failed)
    store = RemoteStore()
    while True:
        _wait(store, name)
        try:
            code = _run(store, name)
        except Exception:  # Each kind of remote has errors of its own.
            if not store.away():
                raise
        else:
            if not code or failed.seen or not store.away():
                return code


def _wait(store: RemoteStore, name: str) -> None:
    """Wait while the remote is away, and say why."""
    waited = False
    while why := store.away():
        if not waited:
            say(f"{name} waits, since DVC's remote is away: {why}")
        waited = True
        time.sleep(AWAY_SECONDS)
    if waited:
        say(f"{name} goes on: DVC's remote is back")


def _run(store: RemoteStore, name: str) -> int:
    _pull_own(store)
    key = store.key(name)
    store.pull_one_run(key)

    def has_outputs() -> bool:
        return store.run_is_here(key) or store.fetch_run(key)

    if not key or has_outputs():
        return _repro(name)
    from flows.cluster import lease  # It imports Prefect, which takes a second, and what is cached needs no lease.

    with lease.held(key, name, say, has_outputs) as mine:
        if not mine:
            return _repro(name)
        with _sharing(store, name, key) as training:
            code = _repro(name)
            if code and training:
                training.last()
        if code:
            return code
        try:
            store.push(name)
            if name == TRAIN:
                saves.Saves(store, key, Path()).remove()
        except Exception as error:  # Of a remote of any kind; the whole run is pushed again at its end.
            say(f"{name} is not shared yet: {type(error).__name__}: {one_line(error)}")
        return 0


@contextlib.contextmanager
def _sharing(store: RemoteStore, name: str, key: str) -> Iterator[saves.Sharing | None]:
    """Go on from the shared save of a training, and share its saves meanwhile, where this is wanted."""
    seconds = dvc_remote.save_seconds()
    if name != TRAIN or seconds is None:
        yield None
        return
    from tasks.common.params import resolved
    from tasks.files import cost

    scratch = paths.SCRATCH / "train" / cost.training_key(resolved())
    scratch.mkdir(parents=True, exist_ok=True)
    shared = saves.Saves(store, key, scratch)
    for line in shared.fetch():
        say(line)
    thread = saves.Sharing(shared, seconds, say)
    thread.start()
    try:
        yield thread
    finally:
        thread.ended.set()
        thread.join()


def _repro(name: str) -> int:
    return int(cli.main(["repro", "--single-item", "--pull", name]))


def _pull_own(store: RemoteStore) -> None:
    """Get the files of the user's own that DVC tracks in data/own and that are not here yet. Raises FlowError."""
    lacking = [path for path in sorted(paths.OWN.glob("*.dvc")) if not path.with_suffix("").exists()]
    if lacking:
        try:
            store.repo.pull(targets=[str(path) for path in lacking])
        except DvcException as error:
            raise FlowError(f"DVC's remote: {one_line(error)}") from None


def say(text: str) -> None:
    """A line for the run's log."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except FlowError as error:
        sys.exit(f"ERROR: {error}")
