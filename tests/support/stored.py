"""An MLflow store in an empty checkout, copied from one that is made once: making it takes a second."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.tracking import mlflow_runs, store


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an empty store."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.SETTINGS.items():
            patch.setenv(name, value)
        store.create(store.Store("", folder / "mlflow.db", folder / "mlartifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def place(made_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Store:
    """An empty store in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "ARC_HOME", "ARC_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(made_store, tmp_path / store.DATABASE)
    found = store.configured_store()
    store.relocate(found)
    return found


@pytest.fixture
def client(place: store.Store) -> Any:
    """MLflow's own client of the store."""
    return mlflow_runs.connect(place)
