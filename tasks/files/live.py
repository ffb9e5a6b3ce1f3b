"""Starts the process that shows a running training in MLflow (tasks/tracking/live.py); ARC_LIVE=0 starts none.

The training appends its events to a file and never waits for anything else. The process follows the file, and learns
from the end of a pipe that the training has ended, however it ended.
"""

import os
import subprocess
import sys
from pathlib import Path

from tasks.common import events, paths

RUN_VARIABLE = "ARC_RUN"
"""Environment variable that every process of a run carries: the id of its flow run."""


def folder(key: str) -> Path:
    """Of the training with this key: the events, and how many have arrived in MLflow."""
    return paths.SCRATCH / "live" / key


def start(key: str) -> None:
    """Follow the events of this process from now on."""
    if os.environ.get("ARC_LIVE") == "0":
        return
    place = folder(key).absolute()
    place.mkdir(parents=True, exist_ok=True)
    events.copy_to(place / "events.jsonl")
    lifeline, _held = os.pipe()  # The writing end stays open until this process ends; no child inherits it.
    # Through a shell, so that it is nobody's child: whoever ends the stage's processes leaves it to write the status.
    # The pipe goes by descriptor 3, since a shell gives what runs in the background /dev/null as input.
    command = [sys.executable, "-m", "tasks.tracking.live", str(place)]
    with (place / "log.txt").open("ab") as log:
        shell = ["sh", "-c", 'exec 3<&0; "$@" <&3 3<&- &', "sh"]
        # Nor does it carry the variable by which whoever ends a run of the queue finds its processes.
        variables = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
        subprocess.run(
            [*shell, *command], stdin=lifeline, stdout=log, stderr=log, start_new_session=True, env=variables
        )
    os.close(lifeline)
