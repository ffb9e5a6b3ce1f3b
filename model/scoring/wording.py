"""Scores in words, and the caveats that must accompany a score wherever it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

SELECTED_ON = "selected on the reported set"
TRAINED_ON = "trained on evaluated pairs"
TRAINING_TASKS = "training tasks, whose answers were trained on"


def caveats(score: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader must know before believing this score."""
    if subset(score) == "training":  # Neither selection nor leaks are about these tasks.
        return (TRAINING_TASKS,)
    leaks = int(score["source"]["leaks"])
    applies = {SELECTED_ON: score["selected_on_the_reported_set"], f"{TRAINED_ON} ({leaks})": leaks > 0}
    return tuple(caveat for caveat, true in applies.items() if true)


def subset(score: Mapping[str, Any]) -> str:
    """Which tasks were asked, 'evaluation' or 'training'; scores older than the choice are of evaluation tasks."""
    return str(score["source"]["evaluation"].get("subset", "evaluation"))


def percent(share: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * share:.1f}"


def interval(bounds: Sequence[float]) -> str:
    """Two shares as per cent."""
    return f"{percent(bounds[0])}–{percent(bounds[1])}"
