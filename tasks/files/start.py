"""The checkpoint that a fine-tuning starts from: what it was trained on, and the refusal where that is evaluated."""

from collections.abc import Mapping
from typing import Any

from model.storage import checkpoints
from model.storage.checkpoints import Description
from tasks.common import paths
from tasks.common.stage import StageError

STEM = paths.START / "checkpoint"


def describe() -> Description:
    """What the start says of itself. Raises CheckpointError."""
    return checkpoints.describe(STEM)


def leaked(start: Description, report: Mapping[str, Any]) -> set[tuple[str, int]]:
    """The evaluated pairs (task, test) that the start was trained on: by its task, or by the pair under any view.

    `report` is what the stage prepare wrote to leaks.json. An evaluated pair that is a view of a demonstration of its
    own task is part of the puzzle, and known by its task alone. Raises StageError unless prepare.leaks was 'keep'.
    """
    own = {(entry["task"], entry["test"]) for entry in report["own_demonstrations"]}
    tasks, pairs = set(start.tests_trained_on), set(start.pairs_trained_on.split())
    every = [(task, test, mark) for task, marks in report["evaluated_pairs"].items() for test, mark in enumerate(marks)]
    by_task = {(task, test) for task, test, _ in every if task in tasks}
    by_pair = {(task, test) for task, test, mark in every if mark in pairs} - own
    found = by_task | by_pair
    if found and report["leaks"] != "keep":
        task, test = min(found)
        how = "that pair itself" if (task, test) in by_pair else "test pairs of that task"
        raise StageError(
            f"the start {STEM} ({start.experiment}, seed {start.seed}, {start.step} updates) was trained on "
            f"{len(found)} of the {len(every)} evaluated pairs, such as task {task}, test {test} ({how}); start from "
            "another checkpoint, or set prepare.leaks: keep to train nevertheless and score.allow_leaks: true to score "
            "it, marked as such"
        )
    return found
