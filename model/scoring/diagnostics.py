"""Trajectories of denoising, and how much of an answer copies its input (version ledger 2.6)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid

Floats = NDArray[np.float64]
STILL, SURE = 0.01, 0.95
"""A grid has locked at the first step that changes at most this share of cells with at least this confidence."""


def trajectory(
    change: Floats, confidence: Floats, entropy: Floats, last_changed_step: NDArray[np.int64]
) -> dict[str, Any]:
    """Means over grids of what a denoising measures, (grids, steps) each; `last_changed_step` (grids,).

    `early_locks` counts the grids that locked, `early_lock_step` is the mean step (from 1) at which they did;
    `last_change` the mean step that changed a cell last.
    """
    locked = (change <= STILL) & (confidence >= SURE)
    early = locked.any(1)
    return {
        "grids": len(change),
        "steps": change.shape[1],
        "change": _short(change.mean(0)),
        "confidence": _short(confidence.mean(0)),
        "entropy": _short(entropy.mean(0)),
        "final_change": round(float(change[:, -1].mean()), 4),
        "final_confidence": round(float(confidence[:, -1].mean()), 4),
        "early_locks": int(early.sum()),
        "early_lock_step": round(float(locked[early].argmax(1).mean()) + 1, 2) if early.any() else None,
        "last_change": round(float(last_changed_step.mean()), 2),
    }


def copying(answers: Mapping[Any, Grid], attempts: Mapping[Any, Sequence[Grid]], inputs: Mapping[Any, Grid]) -> Any:
    """How much of the first attempts is copied, over those of the right shape; None where there are none.

    `copy_rate`: share of cells that equal the input. `edit_accuracy`: share right of the cells in which the answer
    differs from the input; `keep_accuracy`: of those in which it does not. Means over grids that have such cells. The
    `cells...` are sums over grids: all, those that equal the input, and those to edit and to keep, and right of these.
    An input of another shape is cropped, or padded with black.
    """
    rates: dict[str, list[float]] = {"copy_rate": [], "edit_accuracy": [], "keep_accuracy": []}
    names = ("", "_copied", "_to_edit", "_edited_right", "_to_keep", "_kept_right")
    totals = np.zeros(len(names), dtype=np.int64)
    grids = 0
    for key, answer in answers.items():
        first = next(iter(attempts.get(key, ())), None)
        if first is None or first.shape != answer.shape:
            continue
        grids += 1
        given = _fitted(inputs[key], answer.shape)
        edited, right = answer != given, first == answer
        copied = first == given
        totals += [int(x.sum()) for x in (right | True, copied, edited, edited & right, ~edited, ~edited & right)]
        rates["copy_rate"].append(float(copied.mean()))
        for name, cells in (("edit_accuracy", edited), ("keep_accuracy", ~edited)):
            if cells.any():
                rates[name].append(float(right[cells].mean()))
    means = {name: round(float(np.mean(values)), 4) if values else None for name, values in rates.items()}
    return {"grids": grids, **{f"cells{n}": int(t) for n, t in zip(names, totals, strict=True)}, **means}


SIGNS = {
    "identity_attractor": "identity attractor: cells to keep are right over 10 points more often than cells to edit",
    "input_gravity": "input gravity: over half of the grids lock early, and over 70 % of cells equal the input",
}
"""The lab's two signs of a model that stays with its input, in words."""


def signs(trajectory: Mapping[str, Any] | None, copying: Mapping[str, Any]) -> dict[str, bool]:
    """Which of SIGNS show; none where nothing was measured."""
    edit, keep, copied = copying["edit_accuracy"], copying["keep_accuracy"], copying["copy_rate"]
    early = trajectory is not None and trajectory["early_locks"] > 0.5 * trajectory["grids"]
    return {
        "identity_attractor": edit is not None and keep is not None and keep > edit + 0.1,
        "input_gravity": early and copied is not None and copied > 0.7,
    }


def warnings(shown: Mapping[str, bool]) -> list[str]:
    """The signs that show, in words."""
    return [text for name, text in SIGNS.items() if shown[name]]


def _fitted(grid: Grid, shape: tuple[int, ...]) -> Grid:
    fitted = np.zeros(shape, dtype=np.uint8)
    height, width = min(shape[0], grid.shape[0]), min(shape[1], grid.shape[1])
    fitted[:height, :width] = grid[:height, :width]
    return fitted


def _short(values: Floats) -> list[float]:
    return [round(float(value), 4) for value in values]
