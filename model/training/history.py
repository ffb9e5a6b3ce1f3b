"""The history of a training: means of what its updates summed up."""

from collections.abc import Sequence

import numpy as np

from model.config.training import Train
from model.training.objective import BUCKETS, METRICS
from model.training.optimizer import learning_rate


class TrainingError(RuntimeError):
    """A training that cannot continue."""


class Diverged(TrainingError):
    """The loss or the gradient norm is not finite."""


def history_row(sums: Sequence[float], config: Train, step: int, updates: int) -> dict[str, float]:
    """The row after update `step`: means over the last `updates`. Raises Diverged.

    `sums` are METRICS and the gradient norm, summed over all batches since the row before.
    """
    total = dict(zip((*METRICS, "gradient_norm"), sums, strict=True))
    row = {
        "step": float(step),
        "learning_rate": learning_rate(config, step - 1),
        "loss": total["loss"] / total["batches"],
        "gradient_norm": total["gradient_norm"] / updates,
        "cross_entropy": total["cross_entropy"] / total["cells"],
        "accuracy": total["right"] / total["cells"],
        "size_cross_entropy": total["size_cross_entropy"] / total["grids"],
        "size_accuracy": total["size_right"] / total["grids"],
        "grids": total["grids"],
    }
    for i in range(BUCKETS):
        cells = max(1.0, total[f"cells_{i}"])
        row[f"cross_entropy_{i}"] = total[f"cross_entropy_{i}"] / cells
        row[f"accuracy_{i}"] = total[f"right_{i}"] / cells
    if not all(np.isfinite(value) for value in row.values()):
        raise Diverged(
            f"update {step}: loss {row['loss']}, gradient norm {row['gradient_norm']}; the training diverged. "
            "Lower train.optimizer.learning_rate or lengthen train.warmup_steps"
        )
    return row
