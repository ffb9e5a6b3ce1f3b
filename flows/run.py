"""`arc run`: one experiment now, frozen like a queued one, with or without a server."""

import os
import sys
import uuid

from flows import freeze, places
from flows.request import Request
from flows.server import address, answers


def run(request: Request) -> None:
    """Freeze the checkout and become the flow, in a worktree; this process is the run's from here on."""
    snapshot = freeze.freeze(request, places.tree())
    if snapshot.warning:
        print(f"warning: {snapshot.warning}", file=sys.stderr)
    name = f"now-{uuid.uuid4().hex[:12]}"
    worktree = freeze.lay_out(snapshot.commit, name)
    environment = {**os.environ, **places.environment(), "ARC_COMMIT": snapshot.commit}
    if answers():
        environment["PREFECT_API_URL"] = address()
    else:
        print("no server answers: the flow starts one for itself (10 to 30 s)", file=sys.stderr)
        environment.pop("PREFECT_API_URL", None)
    os.chdir(worktree)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "flows.experiment", request.model_dump_json()],
        environment,
    )
