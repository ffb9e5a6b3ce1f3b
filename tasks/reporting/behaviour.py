"""How much of the answers copies the input, and when their denoising stops: for the page and the score table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from model.scoring.wording import percent

HEADS = (
    "right\nsize",
    "\ncells",
    "copied\n%",
    "kept\nright %",
    "to\nedit",
    "edited\nright %",
    "last\nchange",
    "lock\n%",
    "at\nstep",
)
"""Over the `cells`."""
NOTHING = "–"
"""Where nothing was measured."""


class Behaviour(NamedTuple):
    """The diagnostics of a score."""

    copying: Mapping[str, Any]
    """See model.scoring.diagnostics.copying."""
    trajectory: Mapping[str, Any] | None
    """See model.scoring.diagnostics.trajectory; None without a denoising of view 0."""


def behaviour(score: Mapping[str, Any]) -> Behaviour:
    """Of a score file."""
    return Behaviour(score["copying"], score["trajectory"])


def cells(row: Behaviour) -> list[str]:
    """One text for each of HEADS: counts, shares in per cent, and steps (from 1)."""
    copying, trajectory = row
    texts = [
        str(copying["grids"]),
        f"{copying['cells']:,}",
        _share(copying["cells_copied"], copying["cells"]),
        _share(copying["cells_kept_right"], copying["cells_to_keep"]),
        f"{copying['cells_to_edit']:,}",
        _share(copying["cells_edited_right"], copying["cells_to_edit"]),
    ]
    if trajectory is None:
        return [*texts, NOTHING, NOTHING, NOTHING]
    lock = trajectory["early_lock_step"]
    return [
        *texts,
        f"{trajectory['last_change']:.1f}",
        _share(trajectory["early_locks"], trajectory["grids"]),
        NOTHING if lock is None else f"{lock:.1f}",
    ]


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else NOTHING
