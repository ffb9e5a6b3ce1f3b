"""The scores in short, as `dvc metrics show` and `dvc plots show` read them."""

from collections.abc import Iterable, Mapping
from typing import Any

from model.scoring.wording import interval, percent
from tasks.reporting.score_table import Row


def metrics(rows: Iterable[Row]) -> dict[str, str]:
    """pass@2 in per cent with its 95 % interval, such as " 33.5 [28.9–38.2]", by checkpoint-evaluation.

    One text each, so that a table of all of them fits a screen; it is padded, so that texts sort as numbers do.
    """
    return {row.name: f"{percent(row.pass_at_2):>5} [{interval(row.ci95)}]" for row in rows}


def vote_points(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per evaluation that votes and number of views: shares 0..1. `scores` are by checkpoint-evaluation."""
    return [
        {"evaluation": name, **{key: point[key] for key in ("views", "pass_at_1", "pass_at_2", "oracle")}}
        for name, score in scores.items()
        if "votes" in score
        for point in score["votes"]["curve"]
    ]
