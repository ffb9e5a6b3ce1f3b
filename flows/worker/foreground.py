"""`arc run`: one experiment now, frozen like a queued one, with or without a server."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from flows.runs import places, processes, snapshots
from flows.runs.request import Request
from flows.worker.server import address, answers, ours


def run(request: Request) -> None:
    """Freeze the checkout and become the flow, in a worktree; this process is the run's from here on."""
    [snapshot] = snapshots.freeze([request], places.tree())
    if snapshot.warning:
        print(f"warning: {snapshot.warning}", file=sys.stderr)
    worktree = snapshots.lay_out(snapshot.commit, snapshots.name_of(psutil.Process()))
    environment = {**os.environ, **places.environment(), "ARC_COMMIT": snapshot.commit}
    if answers() and ours():
        environment["PREFECT_API_URL"] = address()
    else:
        print("no server of this project answers: the flow starts one for itself (10 to 30 s)", file=sys.stderr)
        environment.pop("PREFECT_API_URL", None)
    os.chdir(worktree)
    os.execve(sys.executable, [sys.executable, "-m", "flows.worker.foreground", request.model_dump_json()], environment)


def main(text: str) -> None:
    """Run the flow in the current worktree, and remove that afterwards."""
    from prefect.exceptions import TerminationSignal

    from flows.runs import interruption
    from flows.runs.experiment import experiment

    # Prefect hands the signal on when it has ended the flow; what follows below is still due then.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    request, worktree = Request.model_validate_json(text), Path.cwd()
    flow = experiment.with_options(flow_run_name=request.title.replace("{", "{{").replace("}", "}}"))
    status, why = "KILLED", "ended; a training has saved, and the same command goes on from there"
    try:
        state: Any = flow(request, return_state=True)
        status, why = ("", "") if state.is_completed() else ("FAILED", state.message)
    except (KeyboardInterrupt, TerminationSignal):
        pass  # Told below.
    finally:
        if status and (run := os.environ.get(processes.VARIABLE)):
            interruption.publish(run, worktree, status, why)
        os.chdir(places.home())
        snapshots.remove(worktree.name)
    if why:
        sys.exit(f"arc: {why}")


if __name__ == "__main__":
    main(sys.argv[1])
