"""The cost of a row of the curves."""

import os

import pytest

from tasks.benchmark import tracking
from tasks.common import events
from tests.support.benchmark import Clock


def test_a_row_of_the_curves_costs_what_writing_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(), []
    monkeypatch.setattr(tracking, "time", clock)
    monkeypatch.setattr(events, "emit", lambda event: written.append((event.kind, events.VARIABLE in os.environ)))
    assert tracking.tracking(5) == {"ms_per_row": 1000.0, "share": 1.0}
    assert written == [("progress", True), ("row", True)] * 5
    assert events.VARIABLE not in os.environ
