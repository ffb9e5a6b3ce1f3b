"""The checkpoint that fine-tuning starts from; refuses one that was trained on evaluated pairs."""

from collections.abc import Mapping
from typing import Any

from model.storage import checkpoints
from model.storage.checkpoints import Description
from tasks.common import paths
from tasks.common.stage import StageError

STEM = paths.START / "checkpoint"


def describe() -> Description:
    """Description of the checkpoint. Raises CheckpointError."""
    return checkpoints.describe(STEM)


def leaked(start: Description, report: Mapping[str, Any]) -> set[tuple[str, int]]:
    """The evaluated pairs (task, test) that the start was trained on: by its task, or by the pair under any view.

    `report` holds the contents of leaks.json. An evaluated pair that is a view of a demonstration of its own task is
    part of the puzzle; it counts only if a test pair of its task was trained on.
    Raises StageError unless prepare.leaks was 'keep'.
    """
    own = {(entry["task"], entry["test"]) for entry in report["own_demonstrations"]}
    tasks, pairs = set(start.tests_trained_on), set(start.pairs_trained_on.split())
    evaluated = [
        (task, test, pair)
        for task, pairs_of_task in report["evaluated_pairs"].items()
        for test, pair in enumerate(pairs_of_task)
    ]
    by_task = {(task, test) for task, test, _ in evaluated if task in tasks}
    by_pair = {(task, test) for task, test, pair in evaluated if pair in pairs} - own
    leaks = by_task | by_pair
    if leaks and report["leaks"] != "keep":
        task, test = min(leaks)
        reason = "that pair itself" if (task, test) in by_pair else "test pairs of that task"
        raise StageError(
            f"the start {STEM} ({start.experiment}, seed {start.seed}, {start.step} updates) was trained on "
            f"{len(leaks)} of the {len(evaluated)} evaluated pairs, such as task {task}, test {test} ({reason}); start "
            "from another checkpoint, or set prepare.leaks: keep to train anyway and score.allow_leaks: true to score "
            "it with a caveat"
        )
    return leaks
