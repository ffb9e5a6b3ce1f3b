"""`arc run`: runs one experiment in the foreground, frozen like a queued one, with or without a server."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.runs import places, snapshots
from flows.runs.request import Request
from flows.worker.server import address, answers, find, ours
from tasks.files.live import RUN_VARIABLE


def run(request: Request, variables: Mapping[str, str]) -> None:
    """Freeze the checkout, create a worktree, and replace this process by the flow, with these variables too."""
    [snapshot] = snapshots.freeze([request], places.tree())
    if snapshot.warning:
        print(f"warning: {snapshot.warning}", file=sys.stderr)
    worktree = snapshots.create_worktree(snapshot.commit, snapshots.foreground_name(psutil.Process()))
    find()
    environment = {**os.environ, **places.environment(), "ARC_COMMIT": snapshot.commit, **variables}
    if answers() and ours():
        environment["PREFECT_API_URL"] = address()
    else:
        print("no server of this project answers: the flow starts one for itself (10 to 30 s)", file=sys.stderr)
        environment.pop("PREFECT_API_URL", None)
    os.chdir(worktree)
    os.execve(sys.executable, [sys.executable, "-m", "flows.worker.foreground", request.model_dump_json()], environment)


def main(text: str) -> None:
    """Run the flow in the current worktree, then remove the worktree. `text` is the request as JSON."""
    from prefect.exceptions import TerminationSignal

    from flows.queue import several_nodes
    from flows.runs import interruption
    from flows.runs.flow import experiment

    # Prefect forwards the signal after it has ended the flow; the `finally` block below must still run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    request, worktree = Request.model_validate_json(text), Path.cwd()
    flow = experiment.with_options(flow_run_name=request.title.replace("{", "{{").replace("}", "}}"))
    status, why = "KILLED", "interrupted; a training has saved its state, and the same command resumes it"
    try:
        state: Any = flow(request, return_state=True)
        status, why = ("", "") if state.is_completed() else ("FAILED", state.message)
    except (KeyboardInterrupt, TerminationSignal):
        pass  # Reported in the `finally` block.
    finally:
        several_nodes.dismiss()
        if status and (run := os.environ.get(RUN_VARIABLE)):
            interruption.publish(run, worktree, status, why)
        os.chdir(places.home())
        snapshots.remove(worktree.name)
    if why:
        sys.exit(f"arc: {why}")


if __name__ == "__main__":
    main(sys.argv[1])
