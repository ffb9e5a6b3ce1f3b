"""What showing a training in MLflow costs the training."""

import os
import tempfile
import time

import numpy as np

from tasks.common import events


def tracking(rows: int = 1000) -> dict[str, float]:
    """Cost of showing a training in MLflow while it runs: median of what a row of the curves takes the training.

    The share is that of a row every 100 updates, the default, at 100 updates/s. All else is another process's.
    """
    values = {f"train/value_{i}": 1 / 3 for i in range(30)}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[events.VARIABLE], seconds = f"{folder}/events", []
        for step in range(rows):
            started = time.perf_counter()
            events.emit(events.Progress(step=step, total=rows, loss=1 / 3, accuracy=1 / 3))
            events.emit(events.Row(values=values))
            seconds.append(time.perf_counter() - started)
        del os.environ[events.VARIABLE]
    return {"ms_per_row": 1e3 * float(np.median(seconds)), "share": float(np.median(seconds))}
