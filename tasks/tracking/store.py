"""Which MLflow store the runs are in, its lock, and its database."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.storage.digests import digest_text
from tasks.common import paths
from tasks.tracking.addresses import sqlite_address

DATABASE = Path("mlflow.db")
ARTIFACTS = "mlartifacts"
"""Folder beside the database."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Of the environment, before MLflow is imported or started."""


@dataclass(frozen=True)
class Store:
    """Where the runs are."""

    uri: str
    database: Path | None
    """Of a SQLite store."""
    artifacts: Path | None
    """None where a tracking server decides."""

    @property
    def empty(self) -> bool:
        """Whether it is a SQLite store without a database yet."""
        return self.database is not None and not (self.database.exists() and self.database.stat().st_size)


def store() -> Store:
    """MLFLOW_TRACKING_URI if set, else mlflow.db in the repository root; artifacts beside it. Paths are absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///")).resolve()
        return Store(sqlite_address(database), database, database.with_name(ARTIFACTS))
    return Store(uri, None, None if re.match("https?://", uri) else Path(ARTIFACTS).resolve())


@contextlib.contextmanager
def locked(place: Store) -> Iterator[None]:
    """One process at a time; the kernel gives the lock back when the process ends, however it ends.

    It lies beside a SQLite store and so binds everybody who publishes there; for any other store in scratch.
    """
    lock = paths.SCRATCH / "publish" / f"{digest_text(place.uri)[:32]}.lock"
    if place.database:
        lock = place.database.with_name(f"{place.database.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that writes to {place.uri}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def create(place: Store) -> None:
    """Make the database of an empty store, whole or not at all: MLflow cannot finish one that it left half-made.

    Under the lock.
    """
    if place.database is None or not place.empty:
        return
    os.environ.update(SETTINGS)
    import sqlalchemy
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # MLflow makes its tables in many transactions; waiting for the disk once takes 1 s instead of 6.
    def unsynced(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    part = place.database.with_name(f"{place.database.name}.part")
    for leftover in part.parent.glob(f"{part.name}*"):
        leftover.unlink()
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", unsynced)
    try:
        SqlAlchemyStore(sqlite_address(part), str(place.artifacts)).engine.dispose()
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", unsynced)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(place.database)
