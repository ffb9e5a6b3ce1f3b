"""What the tests of the queue share."""

from pathlib import Path

import pytest

from flows.queue import flow_runs
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout with presets, which no setting of the caller reaches; runs are those of a made-up server."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets.yaml").symlink_to(ROOT / "presets.yaml")
    monkeypatch.setenv("ARC_HOME", str(tmp_path))
    monkeypatch.delenv("ARC_SCRATCH", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(flow_runs, "runs", lambda connection, *kinds, **_: connection.of(*kinds))
    return tmp_path
