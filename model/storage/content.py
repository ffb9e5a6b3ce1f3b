"""Files as functions of their content: digests, and JSON with sorted keys that is written whole or not at all."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(*paths: Path) -> str:
    """SHA-256 over the bytes of files, in this order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def digest_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
    temporary.replace(path)
