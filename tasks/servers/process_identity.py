"""What identifies a process for good: PID, boot and start ticks. PIDs are reused, and a clock may be set."""

from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict


class Identity(BaseModel):
    """One process of this machine, as a record on disk keeps it."""

    model_config = ConfigDict(frozen=True)

    process: int
    """PID."""
    boot: str
    """The kernel's name of the boot in which it lives."""
    ticks: int
    """Clock ticks from the boot to its start."""


def identity(pid: int) -> Identity | None:
    """The identity of a living process; None if there is none."""
    try:
        # The name in brackets may itself contain brackets and spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Identity(process=pid, boot=boot, ticks=int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def find(expected: Identity) -> psutil.Process | None:
    """The process, if it lives; a zombie does not."""
    if expected.process <= 0 or identity(expected.process) != expected:
        return None
    try:
        process = psutil.Process(expected.process)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.Error, ValueError, OverflowError):
        return None
