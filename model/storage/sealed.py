"""JSON objects that contain a digest of their own content, so that an edit or a flipped bit is found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.storage.atomic import write_json
from model.storage.digests import digest_text

KEY = "digest"


class SealError(ValueError):
    """Content that its digest does not belong to. The message says where and why."""


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its digest. Raises ValueError at a NaN."""
    content = json.loads(json.dumps(value, allow_nan=False))
    content.pop(KEY, None)
    return {**content, KEY: _digest(content)}


def check(value: Any, where: str) -> dict[str, Any]:
    """The content that `seal` was given. Raises SealError, whose message begins with `where`."""
    if not isinstance(value, dict):
        raise SealError(f"{where} cannot be used: it is no JSON object")
    if KEY not in value:
        raise SealError(f"{where} cannot be used: it has no digest: an older version of the code wrote it")
    content = {name: part for name, part in value.items() if name != KEY}
    if _digest(content) != value[KEY]:
        raise SealError(f"{where} cannot be used: its content is not what was written: it is damaged or was edited")
    return content


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Write the object with its digest atomically."""
    write_json(path, seal(value))


def _digest(content: Mapping[str, Any]) -> str:
    return digest_text(json.dumps(content, sort_keys=True))
