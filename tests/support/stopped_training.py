"""Starts the stage train in the working folder again and again and sends it two SIGTERMs at random moments.

`python -m tests.support.stopped_training STOPS SEED` prints how the starts ended, as JSON. Each start is a fork of this
process, as in `killed_training`. Nothing is saved but because of a signal, if ARC_SAVE_SECONDS is long.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from model.training import resume_states
from tasks.common import paths
from tests.support.killed_training import SAVES, results, start

LOG = Path(os.environ["LOG"])
UNTIL_HANDLED = 0.5
"""Seconds after a fork in which a signal may find no handler yet."""


def saved() -> int:
    """The update of the newest state; 0 if there is none."""
    states = [state for folder in Path(SAVES).glob("*") if folder.is_dir() and (state := resume_states.newest(folder))]
    return max(map(resume_states.step_of, states), default=0)


def stop(after: float, between: float) -> int:
    """Status of a start that got two signals, the first `after` so many seconds."""
    process = start()
    time.sleep(after)
    os.kill(process, signal.SIGTERM)
    time.sleep(between)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)
    _, status = os.waitpid(process, 0)
    return status


def main(stops: int, seed: int) -> None:
    """Stop so often: no reported update is lost, nothing ends silently, and the bytes are those of one start."""
    draws, ended = random.Random(seed), Counter[str]()
    began = time.monotonic()
    _, status = os.waitpid(start(), 0)
    assert status == 0, LOG.read_text()
    seconds, whole = time.monotonic() - began, results()
    shutil.rmtree(paths.CHECKPOINTS)
    while ended["saved"] + ended["nothing to save"] < stops:
        LOG.write_text("")
        before, after = saved(), draws.uniform(0, seconds)
        status = stop(after, draws.choice([0.0, 0.002, 0.01, 0.05]))
        log = LOG.read_text()
        reported = max([int(step) for step in re.findall(r"^update (\d+) of", log, re.MULTILINE)], default=before)
        if status == 0:
            ended["finished"] += 1
            assert results() == whole, "it ended with other bytes"
            shutil.rmtree(paths.CHECKPOINTS)
            continue
        if os.WIFSIGNALED(status):
            ended["before the stage began"] += 1
            assert after < UNTIL_HANDLED, f"killed by signal {os.WTERMSIG(status)} after {after:.2f} s: {log}"
            assert not log, log
            continue
        assert "SystemExit: train: stopped" in log, log
        assert saved() >= reported, f"update {reported} was reported, {saved()} saved: {log}"
        assert not list(Path(SAVES).glob("*/*.part"))
        ended["saved" if saved() > before else "nothing to save"] += 1
    _, status = os.waitpid(start(), 0)
    assert status == 0, LOG.read_text()
    assert results() == whole, "it ended with other bytes"
    print(json.dumps({"ended": ended, "seconds_unbroken": round(seconds, 1)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
