"""Starts the stage train in the working folder again and again and kills it at random moments.

`python -m tests.support.killed_training KILLS SEED` prints how often it was killed where, as JSON. Each start is a fork
of this process, which has imported everything, so that a hundred of them take minutes.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from model.storage.digests import digest
from tasks import train
from tasks.common import paths

SAVES, MOVES = ".scratch/train", ("data/checkpoints", ".done")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"}


def results() -> dict[str, str]:
    """Digest of every file that the training wrote."""
    return {path.name: digest(path) for path in [*paths.CANDIDATES.iterdir(), paths.HISTORY, paths.PROBES]}


def _die_at(count: int, places: tuple[str, ...]) -> None:
    """Have this process killed at its `count`-th change of a file whose path contains one of `places`."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in CHANGES and any(place in str(part) for part in arguments[:2] for place in places):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def start(count: int = 0, places: tuple[str, ...] = ()) -> int:
    """Process id of a fork that trains, and is killed at its `count`-th change of a file in `places`."""
    process = os.fork()
    if process:
        return process
    quiet = os.open(os.environ.get("LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if count:
        _die_at(count, places)
    try:
        train.main()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end(process: int) -> bool:
    """Whether it finished; false if it was killed."""
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert os.WIFEXITED(status), status
    assert os.WEXITSTATUS(status) == 0, f"the training failed with {status}"
    return True


def main(kills: int, seed: int) -> None:
    """Kill so often; every training that ends in between must end with the bytes of the first, which is not killed."""
    draws, killed, ended = random.Random(seed), Counter[str](), 0
    began = time.monotonic()
    assert _end(start())
    seconds, whole = time.monotonic() - began, results()
    while sum(killed.values()) < kills:
        where = draws.choice(["any", "any", "saves", "moves"])
        if where == "any":
            process = start()
            time.sleep(draws.uniform(0, 0.6 * seconds))
            os.kill(process, signal.SIGKILL)
        elif where == "saves":
            process = start(draws.randint(1, 200), (SAVES,))
        else:
            process = start(draws.randint(1, 40), MOVES)
        if not _end(process):
            killed[where] += 1
            continue
        ended += 1
        assert results() == whole, "it ended with other bytes"
        assert not list((paths.SCRATCH / "train").iterdir())
        shutil.rmtree(paths.CHECKPOINTS)
    assert _end(start())
    assert results() == whole, "it ended with other bytes"
    assert not list((paths.SCRATCH / "train").iterdir()), list(Path(SAVES).iterdir())
    print(
        json.dumps({"killed": killed, "ended": ended + 1, "files": len(whole), "seconds_unbroken": round(seconds, 1)})
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
