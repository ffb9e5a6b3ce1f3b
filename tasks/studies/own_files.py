"""The copy of data/own in an experiment's folder: whole, and of the files that are in the checkout now."""

import os
import shutil
from pathlib import Path

from model.storage.digests import digest
from tasks.common import paths
from tasks.common.stage import StageError


def copy(checkout: Path, place: Path) -> None:
    """Copy data/own of the checkout to `place`, once. Raises StageError where an earlier copy has other files."""
    source, target = checkout / paths.OWN, place / paths.OWN
    if source.is_dir() and not target.exists():
        temporary = target.with_name(f"{target.name}.incomplete")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
        temporary.rename(target)
    current, copied = (
        {name: value for name, value in digests(root).items() if name != str(paths.OWN / "README.md")}
        for root in (checkout, place)
    )
    # A machine without own files may train on those that another one prepared.
    if current and current != copied:
        name = min(name for name in current | copied if current.get(name) != copied.get(name))
        raise StageError(
            f"{place / name} is not as in {checkout}, whose {paths.OWN} has changed since it was copied: remove "
            f"{place} to begin again with the files of today, or restore {paths.OWN}"
        )


def digests(root: Path) -> dict[str, str]:
    """Digest of every file in data/own of a checkout or an experiment's folder, by its path from there, sorted."""
    folders = os.walk(root / paths.OWN, followlinks=True)
    files = sorted(Path(folder, name) for folder, _, names in folders for name in names)
    return {file.relative_to(root).as_posix(): digest(file) for file in files if file.is_file()}
