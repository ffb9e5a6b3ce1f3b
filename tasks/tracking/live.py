"""`python -m tasks.tracking.live FOLDER`: shows a training in MLflow while it runs.

It follows FOLDER/events.jsonl, which the training appends to, until its standard input ends, which is when the training
has ended. Points wait in the file while the store is away. `state.json` says how far they have arrived; what is sent
again after a crash has the same time and step, so that MLflow keeps it once.
"""

import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.storage.atomic import write_json
from tasks.common import events, params, paths
from tasks.common.documents import read_json
from tasks.tracking import mlflow_runs, records
from tasks.tracking.store import SETTINGS, configured_store, create, locked

EVERY_SECONDS = 2.0
PATIENCE_SECONDS = 3600.0
"""For a store that is away when the training has ended."""
BATCH = 1000
"""Entities that one call may log."""


@dataclass
class Follower:
    """Delivers the events of one training to its run."""

    folder: Path
    parameters: dict[str, Any]
    run: str = ""
    offset: int = 0
    outcome: tuple[str, str] = ("KILLED", "the training was killed, or the machine stopped")
    monitor: Any = None

    def connect(self) -> Any:
        """MLflow's client, once the store has the run and its parameters, and says RUNNING."""
        store = configured_store()
        with locked(store):
            create(store)
            client = mlflow_runs.connect(store)
            experiment = mlflow_runs.experiment_id(client, store, self.parameters["publish"]["experiment"])
        key = self.folder.name
        state = self.folder / "state.json"
        saved_state = read_json(state) if state.exists() else {}
        runs = client.search_runs([experiment], f"tags.`{mlflow_runs.LIVE}` = '{key}'", max_results=1)
        if runs and runs[0].info.run_id == saved_state.get("run"):
            self.offset = saved_state["offset"]
        if runs:
            self.run = runs[0].info.run_id
            client.update_run(self.run, status="RUNNING")
        else:
            name = records.named(self.parameters)
            tags = {
                **records.identity(self.parameters),
                "arc.experiment": name,
                mlflow_runs.LIVE: key,
                mlflow_runs.KIND: "live",
            }
            title = records.run_name(self.parameters)
            self.run = client.create_run(experiment, run_name=title, tags=tags).info.run_id
        from mlflow.entities import Param

        flat = [Param(*pair) for pair in params.flatten(self.parameters).items()]
        for i in range(0, len(flat), 100):
            client.log_batch(self.run, params=flat[i : i + 100])
        self._monitor()
        return client

    def deliver(self, client: Any) -> None:
        """Send what is new, in batches, and note how far it went after each."""
        from mlflow.entities import Metric

        reader = events.Reader(self.folder / "events.jsonl")
        reader.offset = self.offset
        points = []
        for event in reader.new():
            if isinstance(event, events.Row | events.CandidateScored):
                at = int(event.at * 1000)
                points += [Metric(name, value, at, step) for name, value, step in measured(event)]
            elif isinstance(event, events.Warned):
                client.set_tag(self.run, "arc.warning", event.message[:5000])
            elif isinstance(event, events.Failed):
                self.outcome = ("KILLED" if event.reason == "stopped" else "FAILED", f"{event.reason}: {event.message}")
            elif isinstance(event, events.Trained):
                self.outcome = "FINISHED", ""
        for i in range(0, len(points), BATCH):
            client.log_batch(self.run, metrics=points[i : i + BATCH])
        if reader.offset != self.offset:
            self.offset = reader.offset
            write_json(self.folder / "state.json", {"run": self.run, "offset": self.offset})

    def end(self, client: Any) -> None:
        """Set the status and the reason."""
        if self.monitor:
            self.monitor.finish()
        status, reason = self.outcome
        if reason:
            client.set_tag(self.run, "arc.reason", reason[:5000])
            client.set_tag(self.run, "mlflow.note.content", reason[:5000])
        client.set_terminated(self.run, status)

    def _monitor(self) -> None:
        """Sample processor, memory and GPUs every ten seconds."""
        if self.monitor:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.monitor = SystemMetricsMonitor(self.run, sampling_interval=10, samples_before_logging=1)
        self.monitor.start()


def measured(event: events.Row | events.CandidateScored) -> Iterator[tuple[str, float, int]]:
    """Name, value and update of each point, under the names that the finished result has."""
    if isinstance(event, events.Row):
        curves = list(records.by_pairs(event.values))
    else:
        curves = [("validation", event.model_dump(exclude={"kind", "at"}))]
    for curve, row in curves:
        for name, value in records.numbers(row):
            yield f"{curve}/{name}", value, int(row["step"])


def main(folder: Path) -> None:
    """Follow the training until it has ended and everything has arrived."""
    if not folder.exists():  # The checkout was removed.
        return
    with (folder / "lock").open("a") as lock:
        # One that still waits for the store with the end of an earlier start of this training goes first.
        fcntl.flock(lock, fcntl.LOCK_EX)
        follow(folder)


def follow(folder: Path) -> None:
    """Follow the training, the only process that does."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # The end of the training ends it.
    os.environ.update(SETTINGS)
    follower, client = Follower(folder, params.read(paths.EXPERIMENT)), None
    ended: float | None = None
    while True:
        try:
            client = client or follower.connect()
            follower.deliver(client)
            if ended is not None:
                follower.end(client)
                return
        except Exception as error:  # Whatever the store does, the training goes on and the points wait.
            print(f"{time.ctime()}: {type(error).__name__}: {error}", flush=True)
            if not folder.exists():  # The checkout was removed.
                return
            if ended is not None and time.monotonic() - ended > PATIENCE_SECONDS:
                return
            time.sleep(EVERY_SECONDS)
        if ended is None and select.select([0], [], [], EVERY_SECONDS)[0]:
            ended = time.monotonic()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
