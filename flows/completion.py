"""What the shell completes: names of experiments. Fast, since the shell asks at every press of the tab key."""

import itertools
from pathlib import Path

from tasks.common import paths
from tasks.common.documents import DocumentError, read_yaml

SECTIONS = ("versions", "sizes", "datasets")


def experiments(incomplete: str) -> list[str]:
    """Every VERSION/SIZE/DATASET of presets.yaml that begins with `incomplete`; none outside of a checkout."""
    return [name for name in names() if name.startswith(incomplete)]


def experiments_or_paths(incomplete: str) -> list[str]:
    """The same, or files and folders where no experiment is meant."""
    matches = experiments(incomplete)
    start = Path(incomplete)
    folder = start if incomplete.endswith("/") else start.parent
    if incomplete.startswith("-") or not folder.is_dir():
        return matches
    return matches + [
        f"{path}{'/' if path.is_dir() else ''}" for path in sorted(folder.iterdir()) if f"{path}".startswith(incomplete)
    ]


def names() -> list[str]:
    """Every VERSION/SIZE/DATASET."""
    try:
        presets = read_yaml(paths.PRESETS)
    except DocumentError:
        return []
    return ["/".join(parts) for parts in itertools.product(*(presets[section] for section in SECTIONS))]
