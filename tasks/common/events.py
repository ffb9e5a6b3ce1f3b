"""Events that a stage reports to its watchers, as JSON lines in the file that ARC_EVENTS names.

A file, not marked lines on standard output: it reaches a watcher through `dvc repro` and torchrun, and no other output
can break its lines. Without ARC_EVENTS nothing is written.
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

VARIABLE = "ARC_EVENTS"
Reason = Literal[
    "out of GPU memory",
    "out of memory",
    "the loss is not finite",
    "the loss diverged",
    "no progress",
    "the disk is full",
    "stopped",
    "other error",
]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)

    at: float = Field(default_factory=time.time)
    """Unix time."""


class DeviceTaken(_Event):
    """The stage holds the lock of its device from now on."""

    kind: Literal["device_taken"] = "device_taken"
    device: str


class Resumed(_Event):
    """A training continues from a saved state."""

    kind: Literal["resumed"] = "resumed"
    step: int
    total: int


class Progress(_Event):
    """A training has finished update `step` of `total`; loss (nats) and accuracy (0 to 1) since the last event."""

    kind: Literal["progress"] = "progress"
    step: int
    total: int
    loss: float
    accuracy: float
    validation_loss: float | None = None
    """On held-out pairs at this update, as validation_accuracy is; None where the training did not look."""
    validation_accuracy: float | None = None


class CandidateScored(_Event):
    """A training has scored its candidate of update `step` on the validation tasks; shares are 0 to 1."""

    kind: Literal["candidate_scored"] = "candidate_scored"
    step: int
    pass_at_2: float
    ci95: tuple[float, float]
    """Of pass_at_2."""
    cell_accuracy: float
    grids_solved: int
    n_grids: int


class Warned(_Event):
    """A training goes on, but somebody should look at it."""

    kind: Literal["warned"] = "warned"
    message: str


class Failed(_Event):
    """The stage ends without its result."""

    kind: Literal["failed"] = "failed"
    reason: Reason
    message: str


class Row(_Event):
    """A row of the training's history."""

    kind: Literal["row"] = "row"
    values: dict[str, float]


class Trained(_Event):
    """The training has ended with its result."""

    kind: Literal["trained"] = "trained"


Event = DeviceTaken | Resumed | Progress | CandidateScored | Row | Trained | Warned | Failed
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


_copies: list[Path] = []


def copy_to(path: Path) -> None:
    """Append the events of this process to a second file too."""
    _copies.append(path)


def emit(event: Event) -> None:
    """Append the event to the files of the watchers, if there are any. A stage never fails because of it."""
    for name in filter(None, [os.environ.get(VARIABLE), *map(str, _copies)]):
        _append(name, event)


def _append(name: str, event: Event) -> None:
    try:
        # One write in append mode, so that lines of several processes do not mix.
        file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, event.model_dump_json().encode() + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        print(f"the event {event.kind!r} could not be written to {name} ({VARIABLE}): {error}", file=sys.stderr)


class Reader:
    """Reads the events of a file that grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def new(self) -> Iterator[Event]:
        """Events since the last call. An unfinished last line is left for the next call; invalid lines are skipped."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        for line in complete.splitlines():
            try:
                event = _EVENT.validate_json(line)
            except ValidationError:
                continue
            yield event


def reason_of(error: BaseException) -> Reason:
    """The reason of an exception, or of the exception that caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if (reason := _reason(cause)) != "other error":
            return reason
        cause = cause.__cause__ or cause.__context__
    return "other error"


def _reason(error: BaseException) -> Reason:
    torch = sys.modules.get("torch")  # A stage that has not imported torch does not load it to say so.
    if torch and isinstance(error, torch.OutOfMemoryError):
        return "out of GPU memory"
    number = error.errno if isinstance(error, OSError) else None
    # Torch's CPU allocator, safetensors and SQLite have no exception types of their own for these.
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "can't allocate memory" in str(error):
        return "out of memory"
    if number == errno.ENOSPC or any(text in str(error) for text in ("No space left on device", "disk is full")):
        return "the disk is full"
    return "other error"
