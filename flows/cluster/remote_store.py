"""The shared DVC remote through DVC's own objects: run-cache entries by stage, and files of ours beside its own.

Only processes that run DVC anyway import this: DVC keeps much memory.
"""

import os
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import StageCache, _can_hash, _get_stage_hash

from flows.runs.places import FlowError, one_line


class RemoteStore:
    """The default remote of the checkout in the current folder, or the remote at `url`. Raises FlowError."""

    def __init__(self, name: str = "", url: str = "") -> None:
        config = {"core": {"remote": name}, "remote": {name: {"url": url}}} if url else {}
        try:
            self.repo = Repo(".", config=config)
            odb = self.repo.cloud.get_remote_odb(None, "push", hash_name="md5-dos2unix")
        except DvcException as error:
            raise FlowError(f"DVC's remote: {one_line(error)}") from None
        self.fs: Any = odb.fs
        self.path = str(odb.path)
        self.local = self.fs.protocol == "local"

    def away(self) -> str:
        """Why the remote cannot be read now; empty if it can."""
        if self.local:
            return "" if Path(self.path).is_dir() else f"{self.path} is no folder; make or mount it"
        try:
            self.fs.info(self.path)
        except FileNotFoundError:
            return ""  # Nothing was written there yet.
        except Exception as error:  # Each kind of remote has its own.
            return f"{self.path}: {type(error).__name__}: {one_line(error)}"
        return ""

    def write(self, path: str, data: bytes) -> None:
        """Write a small file: a reader sees all of it or none."""
        part = f"{path}.part"
        self.fs.makedirs(self.fs.parent(path), exist_ok=True)
        self.fs.pipe_file(part, data)
        self.fs.mv(part, path)

    def upload(self, file: Path, path: str) -> None:
        """Copy a file there; where this is cut off, a part of it may be there."""
        self.fs.makedirs(self.fs.parent(path), exist_ok=True)
        self.fs.put_file(str(file), path)

    def listed(self, path: str) -> list[str]:
        """Paths of the files below a folder; empty if it is missing."""
        self.fs.fs.invalidate_cache()  # Some file systems remember what they have listed.
        return [str(file) for file in self.fs.find(path)] if self.fs.exists(path) else []

    def stage(self, name: str) -> Any:
        """A stage of dvc.yaml as DVC's object."""
        [stage] = self.repo.stage.collect(name)
        return stage

    def key(self, name: str) -> str:
        """Digest of a stage's command, dependencies and parameters as they are now: its name in DVC's run-cache.

        Empty for a stage that DVC does not cache. Raises FlowError where a dependency is missing.
        """
        stage = self.stage(name)
        try:
            stage.save_deps()
        except DvcException as error:
            raise FlowError(f"{name}: {one_line(error)}") from None
        return str(_get_stage_hash(stage)) if _can_hash(stage) else ""

    def run_is_here(self, key: str) -> bool:
        """Whether this clone's run-cache knows the outputs of a stage."""
        return any(self._local_folder(key).glob("*"))

    def fetch_run(self, key: str) -> bool:
        """Get the run-cache entries of one stage. Returns whether there are any."""
        entries = self.listed(self._remote_folder(key))
        for path in entries:
            target = self._local_folder(key) / self.fs.name(path)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f"{target.name}.{os.getpid()}.part")
                try:
                    self.fs.get_file(path, str(part))
                    part.replace(target)
                finally:
                    part.unlink(missing_ok=True)  # It would count as an entry, and be pushed as one.
        return bool(entries)

    def push(self, *names: str) -> None:
        """Push the outputs of stages as dvc.lock has them, and their run-cache entries; of all if none is named."""
        if why := self.away():  # DVC would make a folder that is not mounted.
            raise FlowError(f"DVC's remote: {why}")
        self.repo.push(targets=list(names) or None)
        # Only now, since whoever finds an entry expects its outputs there. DVC's own `push --run-cache` would push
        # the objects of every experiment of this clone too.
        self.repo._reset()
        stages = [self.stage(name) for name in names] if names else self.repo.index.stages
        for key in (_get_stage_hash(stage) for stage in stages if _can_hash(stage)):
            uploaded = {self.fs.name(path) for path in self.listed(self._remote_folder(key))}
            for entry in self._local_folder(key).glob("*"):
                if entry.name not in uploaded:
                    self.upload(entry, self.fs.join(self._remote_folder(key), entry.name))

    def pull_one_run(self, key: str) -> None:
        """Let `dvc repro --pull` get the entries of this stage: by itself it copies the run-cache of everybody."""

        def pull(cache: Any, remote: str | None, odb: Any = None) -> list[tuple[str, str]]:
            if key:
                self.fetch_run(key)
            return []

        StageCache.pull = pull

    def _local_folder(self, key: str) -> Path:
        return Path(self.repo.stage_cache.cache_dir) / key[:2] / key

    def _remote_folder(self, key: str) -> str:
        return str(self.fs.join(self.path, "runs", key[:2], key))
