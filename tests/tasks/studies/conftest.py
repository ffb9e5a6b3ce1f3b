"""What the tests of studies share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import made_up_study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study of two experiments; the stages are made up, without torch."""
    yield from made_up_study.made_up(tmp_path, monkeypatch)
