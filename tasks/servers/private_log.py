"""Logs of the pages, which hold the secret: only this user can read them, whatever the umask."""

from pathlib import Path
from typing import BinaryIO


def create(path: Path) -> BinaryIO:
    """Open an empty log of mode 0600 in a folder of mode 0700. Raises OSError where that cannot be done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.touch(mode=0o600)
    path.chmod(0o600)  # It may be older than this rule.
    return path.open("wb")
