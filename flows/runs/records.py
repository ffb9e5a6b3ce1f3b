"""Records of a flow run on disk, independent of Prefect's database, so that they survive a crash of any process."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

from flows.runs import places
from model.storage.atomic import write_json

T = TypeVar("T")
ELSEWHERE = "another machine"
"""Stands for the stage of a death that happened there."""


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class Death(_Record):
    """An unexpected end of a run."""

    stage: str
    step: int
    """Last known update of the training; 0 in other stages."""
    reason: str
    at: float
    """Unix time."""


class StageRecord(_Record):
    """One execution of a stage."""

    stage: str
    seconds: float
    device_seconds: float
    """Seconds between taking the device and the end of the stage."""
    cached: bool
    outcome: str
    """'done', or the reason of the failure."""


class Progress(_Record):
    """Current stage and update of a run."""

    stage: str = ""
    step: int = 0
    total: int = 0
    began: float = 0.0
    """Unix time at which the stage began; 0 if no stage is running."""
    taken: float = 0.0
    """Unix time at which it took the device; 0 before."""
    at: float = 0.0
    """Unix time of its last output."""


def progress(run: str) -> Progress:
    """The last recorded progress of the run."""
    return read(places.folder_of(run) / "progress.json", Progress, Progress())


def set_progress(run: str, value: Progress) -> None:
    """Record the progress of the run."""
    _write(run, "progress", value.model_dump())


def stages(run: str) -> list[StageRecord]:
    """Stages that the run has executed, over all its starts, in order."""
    return read(places.folder_of(run) / "stages.json", list[StageRecord], [])


def add_stage(run: str, row: StageRecord) -> None:
    """Record a stage that has ended."""
    _write(run, "stages", [before.model_dump() for before in [*stages(run), row]])
    set_progress(run, progress(run).model_copy(update={"began": 0.0, "taken": 0.0}))


def end_stage(run: str, outcome: str) -> None:
    """Record the stage in which the run died, if any; it counts up to its last output."""
    last = progress(run)
    if last.began:
        # The clock may have been set back meanwhile.
        device_seconds = max(last.at - last.taken, 0.0) if last.taken else 0.0
        seconds = max(last.at - last.began, 0.0)
        row = StageRecord(
            stage=last.stage, seconds=seconds, device_seconds=device_seconds, cached=False, outcome=outcome
        )
        add_stage(run, row)


def deaths(run: str) -> list[Death]:
    """Every death of the run, in order."""
    return read(places.folder_of(run) / "deaths.json", list[Death], [])


def add_death(run: str, reason: str) -> bool:
    """Record a death at the current stage and update. True if it is the first there, so that the run may resume."""
    where, before = progress(run), deaths(run)
    death = Death(stage=where.stage, step=where.step, reason=reason, at=time.time())
    _write(run, "deaths", [row.model_dump() for row in [*before, death]])
    return (death.stage, death.step) not in {(row.stage, row.step) for row in before}


def add_lost_machine(run: str, reason: str) -> int:
    """Record a death on another machine, which alone knows how far the run had got. Returns how many there were."""
    every = [*deaths(run), Death(stage=ELSEWHERE, step=0, reason=reason, at=time.time())]
    _write(run, "deaths", [row.model_dump() for row in every])
    return sum(row.stage == ELSEWHERE for row in every)


def mark_stopped(run: str) -> None:
    """Note that the run will die because its worker was told to stop."""
    path = places.folder_of(run) / "stopped"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def take_stopped(run: str) -> bool:
    """Whether that was noted; the note is removed."""
    path = places.folder_of(run) / "stopped"
    noted = path.exists()
    path.unlink(missing_ok=True)
    return noted


def deaths_here(run: str) -> int:
    """Number of deaths at the current stage and update."""
    where = progress(run)
    return sum((row.stage, row.step) == (where.stage, where.step) for row in deaths(run))


def _write(run: str, name: str, value: Any) -> None:
    path = places.folder_of(run) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


def read(path: Path, kind: Any, default: T) -> T:
    """The content of a record as `kind`; `default` if there is none.

    A damaged record is set aside under another name and reported on stderr: one bad file must not stop the worker. One
    that cannot be read is reported and stays.
    """
    try:
        value: T = TypeAdapter(kind).validate_json(path.read_bytes())
        return value
    except FileNotFoundError:
        return default
    except OSError as error:  # The disk or the system fails, not the record.
        print(f"{path} cannot be read: {error.strerror or error}", file=sys.stderr, flush=True)
        return default
    except ValueError as error:
        aside = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(OSError):
            path.replace(aside)
        reason = str(error).splitlines()[0]
        print(f"{path} is damaged ({reason}) and was set aside as {aside.name}", file=sys.stderr, flush=True)
        return default
