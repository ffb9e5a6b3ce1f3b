"""Interrupted runs in MLflow: status KILLED or FAILED, with parameters and the last known update."""

import subprocess
import sys
from pathlib import Path

from flows.runs import records
from model.storage.digests import digest
from tasks.common import paths

KIND = "arc.run"
PARAMETERS = "arc.parameters"
"""Tag of interrupted runs: digest of the resolved experiment, which its continuation shares."""


def publish(run: str, worktree: Path, status: str, reason: str) -> None:
    """Write the run to MLflow in a separate process, since its import is slow. Failures are printed, not raised."""
    if not (worktree / paths.EXPERIMENT).exists():
        return  # It ended before its parameters were resolved, so there is nothing to record.
    done = subprocess.run(
        [sys.executable, "-m", "flows.runs.interruption", run, status, reason],
        cwd=worktree,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(
            f"status {status} of run {run} could not be written to MLflow: {done.stderr.strip()}",
            file=sys.stderr,
            flush=True,
        )


def connect(published: str) -> list[str]:
    """Connect the MLflow run `published` with the interrupted runs of the same parameters, by tags of both.

    The current folder is the worktree of the run. Returns the ids of the interrupted ones.
    """
    from tasks.tracking import mlflow_runs, store

    place = store.configured_store()
    client = mlflow_runs.connect(place)
    query = f"tags.`{KIND}` = 'interrupted' and tags.`{PARAMETERS}` = '{digest(paths.EXPERIMENT)}'"
    experiments = [client.get_run(published).info.experiment_id]
    before = [run.info.run_id for run in client.search_runs(experiments, query, max_results=1000)]
    for run in before:
        client.set_tag(run, "arc.continued_by", published)
    if before:
        client.set_tag(published, "arc.continues", " ".join(sorted(before)))
    return before


def write(run: str, status: str, reason: str) -> None:
    """Write a run with `status` to the MLflow store. The current folder is the worktree of the run."""
    from tasks.common.params import flatten, resolved
    from tasks.tracking import mlflow_runs, store

    experiment, place, where = resolved(), store.configured_store(), records.progress(run)
    with store.locked(place):
        store.create(place)
        client = mlflow_runs.connect(place)
        number = mlflow_runs.experiment_id(client, place, experiment.publish.experiment)
    from mlflow.entities import Param

    tags = {KIND: "interrupted", PARAMETERS: digest(paths.EXPERIMENT)}
    tags |= {"arc.flow_run": run, "arc.stage": where.stage, "arc.reason": reason}
    tags |= {"arc.experiment": experiment.name, "arc.title": experiment.title, "arc.seed": str(experiment.seed)}
    name = f"{experiment.title} seed {experiment.seed}, interrupted"
    created = client.create_run(number, run_name=name, tags=tags).info.run_id
    client.set_terminated(created, status)  # First, so that an interruption leaves no run marked RUNNING.
    params = [Param(*param) for param in flatten(experiment.model_dump(mode="json")).items()]
    for i in range(0, len(params), 100):
        client.log_batch(created, params=params[i : i + 100])
    client.log_metric(created, "train/last_update", where.step, step=where.step)


if __name__ == "__main__":
    write(*sys.argv[1:4])
