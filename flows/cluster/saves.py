"""Resume states of a training at the DVC remote, so that another machine can go on where one died with all it had.

The folder is arc-saves/KEY there, where KEY is the training's name in DVC's run-cache: a digest of its code, data and
parameters. Files have the digest of their content in their names; a list of the files of one save is written last.
"""

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.cluster.remote_store import RemoteStore
from flows.runs.places import one_line
from model.storage import sealed
from tasks.common.documents import parse_json

FOLDER = "arc-saves"
KEPT_SAVES = 2
"""Saves of a training: where the newest is damaged, the one before is used."""
ABANDONED_DAYS = 14
"""After its last save, a training that was not continued is forgotten."""
LOOK_SECONDS = 2.0
_STATE = re.compile(r"state-([0-9]{7,})-([0-9a-f]{64})\.safetensors")
_CANDIDATE = re.compile(r"step-([0-9]{7,})(\.[a-z]+)+(?<!\.part)")
_LIST = re.compile(r"save-([0-9]{7,})\.json")


class Saves:
    """The saves of one training, at the remote and in the folder `scratch` of this clone."""

    def __init__(self, store: RemoteStore, key: str, scratch: Path) -> None:
        self.store, self.scratch = store, scratch
        self.folder = str(store.fs.join(store.path, FOLDER, key))
        self.shared = -1
        """Update of the last save that was shared from here."""
        self._digests: dict[str, str] = {}

    def share(self) -> int | None:
        """Upload the newest state with its candidates. Returns its update; None if there is no new one."""
        state = newest(self.scratch)
        if state is None or step_of(state) == self.shared:
            return None
        step, link = step_of(state), self.scratch / "sharing"
        link.unlink(missing_ok=True)
        link.hardlink_to(state)  # The training removes old states.
        uploaded = {self.store.fs.name(path) for path in self.store.listed(self.folder)}
        files = {state.name: state.name}
        try:
            for path in sorted((self.scratch / "candidates").glob("*")):
                match = _CANDIDATE.fullmatch(path.name)
                if match and int(match[1]) <= step:
                    files[f"candidates/{path.name}"] = name = f"{self._digest(path)}-{path.name}"
                    if name not in uploaded:
                        self.store.upload(path, self._remote_path(name))
            if state.name not in uploaded:
                self.store.upload(link, self._remote_path(state.name))
        finally:
            link.unlink(missing_ok=True)
        content = sealed.seal({"step": step, "files": files, "at": time.time()})
        self.store.write(self._remote_path(f"save-{step:07d}.json"), json.dumps(content).encode())
        self.shared = step
        self._remove_old()
        return step

    def fetch(self) -> Iterator[str]:
        """Get the newest save that is whole, where it is newer than what this clone has. Yields what to say."""
        state = newest(self.scratch)
        local_step = step_of(state) if state else 0
        for step, path in self._lists():
            if step <= local_step:
                return
            try:
                self._fetch(path)
            except (ValueError, OSError) as error:
                yield f"the shared save {path} is not used: {one_line(error)}"
                continue
            yield f"got the shared save after update {step} from {self.folder}"
            return

    def remove(self) -> None:
        """Remove all: the training is complete."""
        if self.store.fs.exists(self.folder):
            self.store.fs.remove(self.store.listed(self.folder))
            if self.store.local:
                Path(self.folder).rmdir()

    def forget_abandoned(self) -> None:
        """Remove the saves of trainings that nobody has continued for ABANDONED_DAYS."""
        root = self.store.fs.join(self.store.path, FOLDER)
        newest_of: dict[str, float] = {}
        for path in self.store.listed(str(root)):
            folder, name = self.store.fs.parent(path), self.store.fs.name(path)
            if _LIST.fullmatch(name):
                with contextlib.suppress(ValueError):
                    at = float(sealed.check(self._read(path), path)["at"])
                    newest_of[folder] = max(newest_of.get(folder, 0.0), at)
        for folder, at in newest_of.items():
            if time.time() - at > ABANDONED_DAYS * 86400 and folder != self.folder:
                self.store.fs.remove(self.store.listed(folder))

    def _fetch(self, path: str) -> None:
        """Copy the files of a save into scratch, the state last. Raises ValueError where one is damaged."""
        content = sealed.check(self._read(path), path)
        for local, remote in sorted(content["files"].items(), key=lambda row: row[0].startswith("state-")):
            folder, _, name = local.rpartition("/")
            match = _STATE.fullmatch(name) if not folder else _CANDIDATE.fullmatch(name)
            if folder not in ("", "candidates") or not match or "/" in remote:
                raise ValueError(f"it names a file {local!r}, which no training writes")
            digest = match[2] if not folder else remote.partition("-")[0]
            target = self.scratch / local
            if target.exists() and _digest(target) == digest:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            try:
                self.store.fs.get_file(self._remote_path(remote), str(part))
                if _digest(part) != digest:
                    raise ValueError(f"{remote} is damaged: its content is not what was saved")
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def _lists(self) -> list[tuple[int, str]]:
        """Update and path of each save, the newest first."""
        entries = [(self.store.fs.name(path), path) for path in self.store.listed(self.folder)]
        rows = [(int(match[1]), path) for name, path in entries if (match := _LIST.fullmatch(name))]
        return sorted(rows, reverse=True)

    def _remove_old(self) -> None:
        needed: set[str] = set()
        whole_saves = 0
        for _, path in self._lists():
            try:
                files = sealed.check(self._read(path), path)["files"].values() if whole_saves < KEPT_SAVES else None
            except ValueError:
                files = None  # Damaged: nobody can use it.
            if files is not None:
                whole_saves += 1
                needed |= {self.store.fs.name(path), *files}
        for path in self.store.listed(self.folder):
            if self.store.fs.name(path) not in needed:
                self.store.fs.remove(path)

    def _read(self, path: str) -> dict[str, Any]:
        """A list of files as it stands there. Raises ValueError unless it is a JSON object."""
        value = parse_json(self.store.fs.cat_file(path), path)
        if not isinstance(value, dict):
            raise ValueError(f"{path} is no JSON object")
        return value

    def _remote_path(self, name: str) -> str:
        return str(self.store.fs.join(self.folder, name))

    def _digest(self, path: Path) -> str:
        """Digest of a candidate, which does not change once it is written."""
        place = f"{path.name} {path.stat().st_mtime_ns}"
        if place not in self._digests:
            self._digests[place] = _digest(path)
        return self._digests[place]


class Sharing(threading.Thread):
    """Shares the states that a training saves, at most once in `seconds`; the training itself does not wait for it."""

    def __init__(self, saves: Saves, seconds: float, say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.saves, self.seconds, self.say = saves, seconds, say
        self.ended = threading.Event()
        self.reported = ""
        """The last problem that was written to the log; empty before the first one."""

    def run(self) -> None:
        """Until `ended` is set."""
        _be_nice()
        self._try(self.saves.forget_abandoned)
        last = -self.seconds
        while not self.ended.wait(LOOK_SECONDS):
            if time.monotonic() - last >= self.seconds and self._try(self.saves.share) is not None:
                last = time.monotonic()

    def last(self) -> None:
        """Share what the training saved when it was stopped, such as by a machine that shuts down."""
        self.ended.set()
        self.join()
        self._try(self.saves.share)

    def _try(self, act: Callable[[], int | None]) -> int | None:
        try:
            return act()
        except Exception as error:  # Of a remote of any kind. The training goes on; the next look tries again.
            text = f"the save is not shared: {type(error).__name__}: {one_line(error)}"
            if text != self.reported:
                self.reported = text
                self.say(text)
            return None


def newest(scratch: Path) -> Path | None:
    """The state of the latest update in a folder; None if there is none."""
    return max((path for path in scratch.glob("state-*") if _STATE.fullmatch(path.name)), key=step_of, default=None)


def step_of(state: Path) -> int:
    """The number of updates of a state, from its name."""
    return int(state.name.split("-")[1])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _be_nice() -> None:
    """Let this thread give way to the training."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
