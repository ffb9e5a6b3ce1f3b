"""What is kept of a flow run beside Prefect's database, so that a crash of anything leaves the truth on the disk."""

import json
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.runs import places
from model.storage.content import write_json


class Death(BaseModel):
    """A run that ended without being asked to."""

    stage: str
    step: int
    """Last update of the training that is known; 0 in other stages."""
    reason: str
    at: float
    """Unix time."""


class StageRecord(BaseModel):
    """One stage that a run has been through."""

    stage: str
    seconds: float
    device_seconds: float
    """Between taking the device and the end."""
    cached: bool
    outcome: str
    """'done', or why not."""


class Progress(BaseModel):
    """Where a run is."""

    stage: str = ""
    step: int = 0
    total: int = 0
    began: float = 0.0
    """Unix time when the stage began; 0 when it has ended."""
    taken: float = 0.0
    """When it took the device; 0 before."""
    at: float = 0.0
    """When it last said something."""


def progress(run: str) -> Progress:
    """The last that the run said of where it is."""
    return Progress.model_validate(_read(run, "progress", {}))


def set_progress(run: str, value: Progress) -> None:
    """Say where the run is."""
    _write(run, "progress", value.model_dump())


def stages(run: str) -> list[StageRecord]:
    """Stages of all starts of the run, in order."""
    return [StageRecord.model_validate(row) for row in _read(run, "stages", [])]


def add_stage(run: str, row: StageRecord) -> None:
    """Add a stage that has ended."""
    _write(run, "stages", [*_read(run, "stages", []), row.model_dump()])
    set_progress(run, progress(run).model_copy(update={"began": 0.0, "taken": 0.0}))


def end_stage(run: str, outcome: str) -> None:
    """Add the stage that the run was in when it died, as far as its last word tells, if it was in one."""
    last = progress(run)
    if last.began:
        device_seconds = last.at - last.taken if last.taken else 0.0
        seconds = last.at - last.began
        row = StageRecord(
            stage=last.stage, seconds=seconds, device_seconds=device_seconds, cached=False, outcome=outcome
        )
        add_stage(run, row)


def deaths(run: str) -> list[Death]:
    """How often the run died, and where."""
    return [Death.model_validate(row) for row in _read(run, "deaths", [])]


def add_death(run: str, reason: str) -> bool:
    """Add a death where the run is now. True if it may be resumed: it never died at this place before."""
    where, before = progress(run), deaths(run)
    death = Death(stage=where.stage, step=where.step, reason=reason, at=time.time())
    _write(run, "deaths", [row.model_dump() for row in [*before, death]])
    return (death.stage, death.step) not in {(row.stage, row.step) for row in before}


def _write(run: str, name: str, value: Any) -> None:
    path = places.folder_of(run) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    write_json(part, value)
    part.replace(path)


def _read(run: str, name: str, otherwise: Any) -> Any:
    path: Path = places.folder_of(run) / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else otherwise
