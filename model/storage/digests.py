"""SHA-256 digests of files and texts, as lower-case hexadecimal strings of 64 digits."""

import hashlib
from pathlib import Path


def digest(*paths: Path) -> str:
    """The digest of the digests of the files' bytes, in this order. Raises OSError where a file cannot be read."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def digest_text(text: str) -> str:
    """The digest of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
