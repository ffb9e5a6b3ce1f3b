"""The training's progress as a Prefect artifact, read from the lines that it prints."""

import re
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from flows.runs import records

LINE = re.compile(r"update (\d+) of (\d+): loss (\S+) accuracy (\S+)")
RESUMED = re.compile(r"going on after update (\d+) of (\d+)")
TAKEN = re.compile(r"device \S+ taken$")
EVERY_SECONDS = 5.0


class Progress:
    """Follows the log of one stage of the run `run`."""

    def __init__(self, run: str, stage: str) -> None:
        self.run, self.stage = run, stage
        self.artifact: UUID | None = None
        self.shown = 0.0
        self.first: tuple[float, int] | None = None
        """Time and update of the first line: the rate is measured from there."""
        last, now = records.progress(run), time.time()
        # A stage that starts anew is where it died, until it says something else.
        place = last if last.stage == stage else records.Progress(stage=stage)
        self.place = place.model_copy(update={"began": now, "taken": 0.0, "at": now})
        records.set_progress(run, self.place)

    def line(self, text: str) -> None:
        """Take in a line of the log."""
        resumed, update = RESUMED.match(text), LINE.match(text)
        said: dict[str, float] = {"at": time.time()}
        if TAKEN.match(text):
            said["taken"] = said["at"]
        match = update or resumed
        if match:
            said |= {"step": int(match[1]), "total": int(match[2])}
        self.place = self.place.model_copy(update=said)
        records.set_progress(self.run, self.place)
        if not match:
            return
        now = time.monotonic()
        self.first = self.first or (now, self.place.step)
        done = self.place.step == self.place.total
        if update and (now - self.shown >= EVERY_SECONDS or done):
            self.shown = now
            self._show(f"update {update[1]} of {update[2]}, loss {update[3]}, accuracy {update[4]}, {self._left(now)}")

    def _left(self, now: float) -> str:
        assert self.first
        began, step = self.first
        if self.place.step == step:
            return "time left not known yet"
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
            get_run_logger().warning("progress not shown, the server does not answer: %r", error)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
