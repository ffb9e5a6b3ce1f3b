"""Conversion of times between users, this machine's clock and the server."""

from datetime import datetime, timedelta
from typing import Any

from flows.runs.places import FlowError


def at(text: str, now: datetime | None = None) -> datetime:
    """The next HH:MM of this machine's clock, or an ISO date and time in the future. Raises FlowError."""
    clock_now = now or datetime.now()
    present = clock_now.astimezone()
    try:
        if len(text) <= 5:
            clock = datetime.strptime(text, "%H:%M")
            # Without a zone until the day is known: its offset may differ from today's.
            naive = clock_now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0, tzinfo=None)
            moment = naive.astimezone()
            return moment if moment > present else (naive + timedelta(days=1)).astimezone()
        moment = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise FlowError(f"--at {text!r} is not a time; allowed are HH:MM and YYYY-MM-DDTHH:MM") from None
    if moment <= present:
        raise FlowError(f"--at {text!r} is in the past; give a future time")
    return moment


def local(moment: Any) -> str:
    """A timestamp of the server as text in this machine's time zone; empty for None."""
    return f"{moment.astimezone():%d %b %H:%M:%S}" if moment else ""
