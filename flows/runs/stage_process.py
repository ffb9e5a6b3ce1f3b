"""One stage as a process: `dvc repro --single-item STAGE`, with its log, its events and its outcome."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.runs import places
from tasks.common import events
from tasks.common.stage import die_with_parent

SAVE_SECONDS = 28.0
"""Seconds in which a stage may save when its run is cancelled; Prefect kills the run after 30."""
NOISE = re.compile(
    r"WARNING: Process '.*' with \(Pid \d+\), in RWLock-file .* had been killed"
    r"|(To track the changes with git|To enable auto staging|Use `dvc push`)|\s+(git add|dvc config core)"
)
"""Advice that DVC prints after every stage, and that it released the lock of one that was killed."""
CACHED = re.compile(r"Stage '.*' (didn't change, skipping|is cached)|Data and pipelines are up to date\.")
"""DVC's lines of a stage that did not run: nothing changed, or its outputs came from the cache or the remote."""
EXITED = re.compile(r"ERROR: failed to reproduce .*exited with (-?\d+)")
"""DVC's last line of a failed stage: nothing else tells the exit code of the stage's own process."""
TRAIN = "train"
POLL_SECONDS = 0.5
"""Maximum delay of an event."""


@dataclass
class Outcome:
    """The outcome of a stage."""

    code: int = 0
    """Exit code of the stage, or of DVC where the stage did not start."""
    failure: events.Failed | None = None
    """The first failure that the stage reported; with several GPUs the others follow from it."""
    cached: bool = False
    seconds: float = 0.0
    device_seconds: float = 0.0
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=60))
    """The last lines of its log."""


def stage_names() -> list[tuple[str, list[str]]]:
    """The stages of the checkout in the current folder in DVC's order, each with its direct dependencies."""
    import networkx
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    with Repo(".") as repo:
        graph = repo.index.graph
        # A page can draw `train` after `augment` after `params`, but not every pair of them.
        direct = networkx.transitive_reduction(graph)
        return [(str(s.addressing), [str(d.addressing) for d in direct.successors(s)]) for s in plan_repro(graph)]


def run_stage(
    stage: str,
    path: Path,
    on_line: Callable[[str], None],
    on_event: Callable[[events.Event], None],
    outcome: Outcome,
) -> None:
    """Run the stage with DVC; fills in `outcome`, also when this raises. The stage writes its events to `path`.

    When this process is interrupted, the stage is asked to stop and has ended when this raises.
    """
    path.unlink(missing_ok=True)
    reader, started, taken = events.Reader(path), time.monotonic(), 0.0
    process = subprocess.Popen(
        _command(stage),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **places.environment(), events.VARIABLE: str(path)},
        # Not in a new session: Prefect ends the process group of the run, and the stage must end with it.
        preexec_fn=die_with_parent,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()

    def take_events() -> None:
        nonlocal taken
        for event in reader.new():
            if isinstance(event, events.DeviceTaken):
                taken = time.monotonic()
            if isinstance(event, events.Failed):
                outcome.failure = outcome.failure or event
            on_event(event)

    try:
        while (text := _next(lines, POLL_SECONDS)) is not None:
            take_events()
            if not text or NOISE.match(text):
                continue
            outcome.lines.append(text)
            outcome.cached |= bool(CACHED.match(text))
            on_line(text)
        take_events()
        outcome.code = process.wait()
        codes = [int(match[1]) for line in outcome.lines if (match := EXITED.match(line))]
        if outcome.code and codes:
            outcome.code = codes[-1]
    except BaseException:
        _end(process, lines, outcome)
        raise
    finally:
        outcome.seconds = time.monotonic() - started
        outcome.device_seconds = time.monotonic() - taken if taken else 0.0


def _command(stage: str) -> list[str]:
    if stage == TRAIN and helping():
        return [sys.executable, "-m", "tasks.train"]  # The first machine writes the outputs.
    if os.environ.get("ARC_DVC_PULL"):
        # In a cluster, what another machine computed or computes is taken from the remote.
        return [sys.executable, "-m", "flows.cluster.stage", stage]
    return ["dvc", "repro", "--single-item", stage]


def helping() -> bool:
    """Whether this run only helps the training of another machine (`arc run --nodes`)."""
    return os.environ.get("ARC_NODE", "0") != "0"


def _read(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]") -> None:
    """Put every line of the output in the queue, then None: its last process has ended."""
    assert process.stdout
    with process.stdout:
        for line in process.stdout:
            lines.put(line.rstrip())
    lines.put(None)


def _next(lines: "queue.SimpleQueue[str | None]", seconds: float) -> str | None:
    """The next line; empty if none comes in time, None at the end."""
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return ""


def _end(process: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]", outcome: Outcome) -> None:
    """Send SIGTERM to the stage's processes, wait up to SAVE_SECONDS for the last one to end, then kill."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if not family:  # It waits or copies: there is nothing to save.
        process.terminate()
    for member in family:
        _send(member, signal.SIGTERM)
    deadline = time.monotonic() + SAVE_SECONDS
    while (left := deadline - time.monotonic()) > 0 and (text := _next(lines, min(left, 1.0))) is not None:
        if text:
            outcome.lines.append(text)
    for member in family:
        _send(member, signal.SIGKILL)
    process.kill()
    process.wait()


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
