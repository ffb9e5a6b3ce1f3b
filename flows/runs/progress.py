"""The progress of a stage: recorded on disk, and shown as a Prefect artifact."""

import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from flows.runs import records
from tasks.common import events

EVERY_SECONDS = 5.0
"""Minimum time between two updates of the artifact."""


class Progress:
    """Follows one stage of the run `run`."""

    def __init__(self, run: str, stage: str) -> None:
        self.run, self.stage = run, stage
        self.artifact: UUID | None = None
        self.shown = 0.0
        self.candidate = ""
        """The last candidate that was scored, in words."""
        self.first: tuple[float, int] | None = None
        """Time and update of the first event with an update: the rate is measured from there."""
        last, now = records.progress(run), time.time()
        # A restarted stage keeps the last known update until it reports another one.
        place = last if last.stage == stage else records.Progress(stage=stage)
        self._record(place, began=now, taken=0.0, at=now)

    def line(self) -> None:
        """Record that the stage is alive: it has printed a line."""
        self._record(self.place, at=time.time())

    def event(self, event: events.Event) -> None:
        """Record an event, and show the progress of a training at most every EVERY_SECONDS."""
        if isinstance(event, events.DeviceTaken):
            self._record(self.place, at=event.at, taken=event.at)
        if isinstance(event, events.CandidateScored):
            self.candidate = f", candidate of update {event.step}: pass@2 {100 * event.pass_at_2:.1f} %"
        if not isinstance(event, events.Resumed | events.Progress):
            return
        self._record(self.place, at=event.at, step=event.step, total=event.total)
        now = time.monotonic()
        self.first = self.first or (now, event.step)
        last = event.step == event.total
        if isinstance(event, events.Progress) and (now - self.shown >= EVERY_SECONDS or last):
            self.shown = now
            reached = f"update {event.step} of {event.total}"
            measured = f"loss {event.loss:.3f}, accuracy {event.accuracy:.3f}{self.candidate}"
            self._show(f"{reached}, {measured}, {self._left(now)}")

    def _record(self, place: records.Progress, **values: float) -> None:
        self.place = place.model_copy(update=values)
        records.set_progress(self.run, self.place)

    def _left(self, now: float) -> str:
        assert self.first
        began, step = self.first
        if self.place.step == step:
            return "time left unknown"
        left = (now - began) / (self.place.step - step) * (self.place.total - self.place.step)
        return f"{duration(left)} left"

    def _show(self, description: str) -> None:
        share = 100.0 * self.place.step / self.place.total
        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(share, key=self.stage, description=description)  # type: ignore[assignment]
            else:
                update_progress_artifact(self.artifact, share, description)
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:
            get_run_logger().warning("progress is not shown because the server does not answer: %r", error)


def duration(seconds: float) -> str:
    """A duration in its two largest units of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
