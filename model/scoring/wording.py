"""Scores in words, and the caveats that must accompany a score wherever it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

SELECTED_ON = "selected on the reported set"


TRAINED_ON = "trained on evaluated pairs"


def caveats(score: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader must know before believing this score."""
    leaks = int(score["source"]["leaks"])
    applies = {SELECTED_ON: score["selected_on_the_reported_set"], f"{TRAINED_ON} ({leaks})": leaks > 0}
    return tuple(caveat for caveat, true in applies.items() if true)


def percent(share: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * share:.1f}"


def interval(bounds: Sequence[float]) -> str:
    """Two shares as per cent."""
    return f"{percent(bounds[0])}–{percent(bounds[1])}"
