"""Addresses of SQLite databases in folders of any name."""

import hashlib
import os
from pathlib import Path
from urllib.parse import unquote


def sqlite_address(database: Path) -> str:
    """The SQLAlchemy address of a database file."""
    return f"sqlite:///{addressable(database.parent.resolve()) / database.name}"


def addressable(folder: Path) -> Path:
    """The absolute folder, or a link to it in the user's cache folder where an address cannot hold its name.

    SQLAlchemy reads what follows a question mark as options, and %20 as a space; MLflow and Prefect quote neither.
    Raises ValueError where the cache folder has such a name too.
    """
    if _plain(folder):
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arc-diffusion"
    link = cache / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not _plain(link):
        raise ValueError(f"the names of {folder} and {cache} hold a question mark or %XX; move the checkout")
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not link.is_symlink() or link.readlink() != folder:
        part = link.with_name(f"{link.name}.{os.getpid()}")
        part.symlink_to(folder)
        part.replace(link)
    return link


def _plain(path: Path) -> bool:
    return "?" not in str(path) and unquote(str(path)) == str(path)
