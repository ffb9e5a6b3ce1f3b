"""What the tests of a cluster share."""

import os
from pathlib import Path

import pytest

from flows.cluster import owners, settings


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty clone on the machine `here`, which no setting of the caller reaches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "ARC_HOME": str(tmp_path)})
    for name in (
        "PREFECT_API_URL",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "ARC_SCRATCH",
        settings.AUTH_VARIABLE,
    ):
        os.environ.pop(name, None)
    monkeypatch.setattr(owners, "machine", lambda: "here")
    return tmp_path
