"""The grids proposed for each test input, read from stored predictions."""

import pandas as pd

from model.config.evaluation import Evaluation
from model.puzzles.grids import Grid
from model.scoring.proposals import Proposals, collect_proposals
from model.scoring.scores import Key
from model.scoring.votes import visited_share


def proposals(frame: pd.DataFrame, evaluation: Evaluation) -> dict[Key, Proposals]:
    """Proposals of every view for each test input; of every attempt if no views vote."""
    rows: dict[Key, list[tuple[Grid, int, float, float]]] = {}
    number = "view" if evaluation.voting else "attempt"
    frame = frame.sort_values(number, kind="stable")
    columns = (frame[name].tolist() for name in ("task", "test", "grid", number, "confidence", "last_changed_step"))
    for task, test, grid, i, confidence, last_changed_step in zip(*columns, strict=True):
        rows.setdefault((task, test), []).append(
            (grid, i, confidence, visited_share(last_changed_step, evaluation.steps))
        )
    return {key: collect_proposals(*zip(*proposed, strict=True)) for key, proposed in rows.items()}
