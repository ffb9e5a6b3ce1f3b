"""Whether the files that a stage reads are those that earlier stages wrote, by DVC's own record in dvc.lock.

DVC recognises a changed file by its time and size, and a stage that is started by hand asks nobody: a flipped bit
would pass. Without dvc.lock, or for a file that no stage wrote, there is nothing to compare with.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tasks.common import paths
from tasks.common.documents import DocumentError, read_yaml
from tasks.common.params import resolved

LOCK, STAGES = paths.LOCK, paths.STAGES


class InputError(ValueError):
    """A file that is not what a stage wrote. The message names both."""


def check(stage: str, arguments: tuple[Any, ...]) -> None:
    """Compare every dependency of a stage with dvc.lock. Raises InputError."""
    if not LOCK.exists() or not STAGES.exists():
        return
    entry = read_yaml(STAGES)["stages"].get(stage)
    if entry is None:
        return
    values = dict(zip(entry.get("matrix", ()), arguments, strict=False))
    dependencies = [_filled(dep, values) for dep in entry["deps"]]
    dependencies += [next(iter(part)) for part in entry.get("params", ()) if isinstance(part, dict)]
    try:
        outputs = [
            (out["path"], name, out["md5"])
            for name, ran in (read_yaml(LOCK).get("stages") or {}).items()
            for out in ran.get("outs", ())
            if "md5" in out
        ]
    except (DocumentError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{LOCK} is no lock of DVC's ({type(error).__name__}); run `dvc repro`") from error
    for path, name, md5 in outputs:
        if path in dependencies or (any(path.startswith(f"{d}/") for d in dependencies) and _wanted(name)):
            _compare(Path(path), name, md5)


def _wanted(stage: str) -> bool:
    """Whether the experiment has this stage; dvc.lock keeps those of evaluations that are no longer asked for."""
    _, _, item = stage.partition("@")
    predict = resolved().predict
    return not item or item in {f"{c}-{e}" for c in predict.checkpoints for e in predict.evaluations}


def _compare(path: Path, stage: str, md5: str) -> None:
    try:
        same = (_folder(path) if md5.endswith(".dir") else _file(path)) == md5
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; run `dvc repro`") from error
    if not same:
        raise InputError(
            f"{path} is not what the stage {stage} wrote according to {LOCK}: it is damaged, or was changed by hand; "
            "run `dvc repro`, or `dvc commit` to accept it"
        )


def _file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _folder(path: Path) -> str:
    """As DVC computes it: the digest of the list of files with their digests."""
    files = [file for file in path.rglob("*") if file.is_file()]
    rows = [{"md5": _file(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    rows.sort(key=lambda row: row["relpath"])
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _filled(dependency: str, values: dict[str, Any]) -> str:
    for name, value in values.items():
        dependency = dependency.replace(f"${{item.{name}}}", str(value))
    return dependency
