"""One stage as a process: `dvc repro --single-item STAGE`, its log line by line, and its end, however it comes."""

import os
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from flows.runs import places
from flows.runs.progress import TAKEN
from tasks.common.stage import die_with_parent

SAVE_SECONDS = 28.0
"""What a stage gets to save when its run is ended; Prefect kills the run after 30."""
NOISE = re.compile(
    r"(To track the changes with git|To enable auto staging|Use `dvc push`)|\s+(git add|dvc config core)"
)
"""What DVC advises after every stage."""


@dataclass
class Outcome:
    """How a stage went."""

    code: int = 0
    cached: bool = False
    seconds: float = 0.0
    device_seconds: float = 0.0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=60))
    """The last of its log."""


def stage_names() -> list[tuple[str, list[str]]]:
    """The stages of the checkout in the current folder in DVC's order, each with those that it directly waits for."""
    import networkx
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    with Repo(".") as repo:
        graph = repo.index.graph
        # A page can draw `train` after `augment` after `params`, but not every pair of them.
        direct = networkx.transitive_reduction(graph)
        return [(str(s.addressing), [str(d.addressing) for d in direct.successors(s)]) for s in plan_repro(graph)]


def run_stage(stage: str, on_line: Callable[[str], None], outcome: Outcome) -> None:
    """Ask DVC for the stage; fills in `outcome`, also when this raises.

    When this process is told to end, the stage is told too, and has ended when this raises.
    """
    started, taken = time.monotonic(), 0.0
    process = subprocess.Popen(
        ["dvc", "repro", "--single-item", stage],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **places.environment()},
        # Not a session of its own: Prefect ends the group of the run, and this would be left over.
        preexec_fn=die_with_parent,
    )
    assert process.stdout
    try:
        for line in process.stdout:
            text = line.rstrip()
            if not text or NOISE.match(text):
                continue
            outcome.lines.append(text)
            if TAKEN.match(text):
                taken = time.monotonic()
            outcome.cached |= bool(re.match(r"Stage '.*' (didn't change, skipping|is cached)", text))
            on_line(text)
        outcome.code = process.wait()
    except BaseException:
        _end(process, outcome)
        raise
    finally:
        process.stdout.close()
        outcome.seconds = time.monotonic() - started
        outcome.device_seconds = time.monotonic() - taken if taken else 0.0


def _end(process: subprocess.Popen[str], outcome: Outcome) -> None:
    """Pass the signal on, and wait for the end of the stage: the pipe closes when its last process has ended."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        _send(member, signal.SIGTERM)
    assert process.stdout
    number, deadline = process.stdout.fileno(), time.monotonic() + SAVE_SECONDS
    os.set_blocking(number, False)
    while (left := deadline - time.monotonic()) > 0:
        if select.select([number], [], [], min(left, 1.0))[0]:
            try:
                part = os.read(number, 65536)
            except BlockingIOError:
                continue
            if not part:
                break
            outcome.lines.extend(part.decode(errors="replace").splitlines())
    for member in family:
        _send(member, signal.SIGKILL)
    process.kill()
    process.wait()


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
