"""Resume states of a training: the newest two, each under a name that contains the digest of its bytes.

safetensors notices neither a flipped bit nor an edited step; the digest does.
"""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.storage.atomic import atomic_path, make_public

KEPT = 2
_NAME = re.compile(r"state-([0-9]{7,})-([0-9a-f]{64})\.safetensors")


class Writer:
    """Writes states in the background, one at a time."""

    def __init__(self, folder: Path, code: str) -> None:
        """`code` is the digest of the code that computes the training."""
        self.folder, self.code = folder, code
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def save(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Copy the state, and begin to write it once the one before is on the disk. Raises OSError of that one."""
        self.wait()
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        metadata = {"plain": json.dumps(plain, allow_nan=False), "code": self.code}
        self._pending = self._thread.submit(_write, self.folder, int(plain["step"]), copies, metadata)

    def wait(self) -> None:
        """Return when everything is on the disk. Raises OSError where it cannot be written."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()


def newest(folder: Path) -> Path | None:
    """The state of the latest update; None if there is none."""
    return max(_states(folder), key=step_of, default=None)


def step_of(path: Path) -> int:
    """The number of updates of a state, from its name."""
    return int(path.name.split("-")[1])


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain values of a state."""
    return load_file(path), json.loads(_metadata(path)["plain"])


def sweep(folder: Path, code: str, fault: Callable[[int], str | None]) -> list[str]:
    """Set aside every state that must not be used, so that `newest` is one that may. Returns what to say of each.

    Damaged ones are renamed. `fault(step)` says what else forbids to resume after `step` updates. States that other
    code saved are removed.
    """
    said: list[str] = []
    for path in sorted(_states(folder), key=step_of, reverse=True):
        if not _intact(path):
            said.append(
                f"{path} is damaged (its content is not what was saved): the save before it is used, if there is one"
            )
            path.rename(path.with_name(f"{path.name}.damaged"))
        elif _metadata(path)["code"] != code:
            path.unlink()
            said.append("the state of this training was saved by other code: it starts anew")
        elif reason := fault(step_of(path)):
            path.unlink()
            said.append(f"{path} is not used: {reason}")
    return said


def _states(folder: Path) -> list[Path]:
    return [path for path in folder.glob("state-*") if _NAME.fullmatch(path.name)]


def _write(folder: Path, step: int, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    part = folder / "state.part"
    try:
        save_file(tensors, part, metadata=metadata)
    except SafetensorError as error:  # A full disk, among others.
        raise OSError(f"{part} cannot be written: {error}") from error
    make_public(part)
    with atomic_path(folder / f"state-{step:07d}-{_digest(part)}.safetensors") as temporary:
        part.replace(temporary)
    for path in sorted(_states(folder), key=step_of)[:-KEPT]:
        path.unlink()


def _intact(path: Path) -> bool:
    name = _NAME.fullmatch(path.name)
    return (
        name is not None and _digest(path) == name[2] and json.loads(_metadata(path)["plain"])["step"] == int(name[1])
    )


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
