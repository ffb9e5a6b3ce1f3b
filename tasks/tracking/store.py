"""The MLflow store: its address, its lock, and the creation of its database."""

import contextlib
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.storage.digests import digest_text
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.tracking.addresses import sqlite_address

DATABASE = Path("mlflow.db")
ARTIFACTS = "mlartifacts"
"""Name of the folder of artifacts, beside the database."""

KEPT_RESULTS = Path("docs/baselines")
"""Results that come with the repository; `arc import` publishes them."""

_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's database with absolute paths."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment variables that must be set before MLflow is imported or started."""


@dataclass(frozen=True)
class Store:
    """An MLflow store."""

    uri: str
    database: Path | None
    """File of a SQLite store, else None."""
    artifacts: Path | None
    """Folder of artifacts; None if a tracking server decides."""

    @property
    def empty(self) -> bool:
        """Whether it is a SQLite store whose database does not exist yet."""
        return self.database is not None and not (self.database.exists() and self.database.stat().st_size)


def configured_store() -> Store:
    """MLFLOW_TRACKING_URI if set, else mlflow.db in the checkout; artifacts beside it. Paths are absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.home() / DATABASE}"
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///")).resolve()
        return Store(sqlite_address(database), database, database.with_name(ARTIFACTS))
    return Store(uri, None, None if re.match("https?://", uri) else Path(ARTIFACTS).resolve())


@contextlib.contextmanager
def locked(store: Store) -> Iterator[None]:
    """Let one process at a time write; the kernel releases the lock when the process ends, however it ends.

    The lock file of a SQLite store is beside its database, so that every writer shares it; else it is in scratch.
    """
    lock = paths.SCRATCH / "publish" / f"{digest_text(store.uri)[:32]}.lock"
    if store.database:
        lock = store.database.with_name(f"{store.database.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that writes to {store.uri}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def relocate(store: Store) -> None:
    """Correct the places of artifacts after the folder of a SQLite store was moved with them.

    MLflow keeps them as absolute paths. Raises StageError if the database is broken.
    """
    if store.database is None or store.artifacts is None or store.empty:
        return
    now = str(store.artifacts)
    with contextlib.closing(sqlite3.connect(store.database, timeout=60)) as connection, connection:
        try:
            rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.DatabaseError as error:
            raise StageError(f"{store.database} is no MLflow store: {error}; move it away, or repair it") from error
        roots = {Path(location).parent for (location,) in rows if location} - {store.artifacts}
        for root in sorted(roots):
            # Artifacts that were left behind, or that somebody keeps elsewhere, stay where they are.
            if root.name != ARTIFACTS or not root.is_absolute() or (root.exists() and not store.artifacts.exists()):
                continue
            before = f"{root}/"
            for table, column in _PLACES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (now, len(before), len(before), before),
                )


def create(store: Store) -> None:
    """Create the database of an empty store atomically (MLflow cannot repair a half-made one); call it locked."""
    if store.database is None or not store.empty:
        return
    os.environ.update(SETTINGS)
    import sqlalchemy
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # MLflow creates its tables in many transactions; syncing once at the end takes 1 s instead of 6 s.
    def unsynced(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    part = store.database.with_name(f"{store.database.name}.part")
    for leftover in part.parent.glob(f"{part.name}*"):
        leftover.unlink()
    part.touch(mode=0o600)  # The runs are this user's to show.
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", unsynced)
    try:
        SqlAlchemyStore(sqlite_address(part), str(store.artifacts)).engine.dispose()
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", unsynced)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(store.database)
