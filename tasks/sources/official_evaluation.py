"""The official evaluation files of data/own, checked by their SHA-256."""

import hashlib
from pathlib import Path

from model.config.data import OfficialEvaluation
from tasks.common import paths
from tasks.common.stage import StageError


def checked(config: OfficialEvaluation) -> dict[str, Path]:
    """Kind ('challenges' or 'solutions') -> file in data/own. Raises StageError for a missing or another file."""
    files = {}
    for kind, pinned in config.model_dump().items():
        path = paths.OWN / paths.raw("evaluation", kind).name
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise StageError(
                f"{path} cannot be read: {error.strerror}; copy ARC Prize's ARC-AGI-2 evaluation {kind} there (SHA-256 "
                f"{pinned}), or use the data set aa2"
            ) from error
        if digest != pinned:
            raise StageError(
                f"{path} has SHA-256 {digest}, but fetch.official_evaluation.{kind} is {pinned}; copy that file there, "
                "or change the setting if yours is meant"
            )
        files[kind] = path
    return files
