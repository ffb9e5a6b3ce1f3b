"""The grids proposed for each test input, read from stored predictions."""

import pandas as pd

from model.config.evaluation import Evaluation
from model.puzzles.grids import Grid
from model.scoring.proposals import Proposals, collect_proposals
from model.scoring.scores import Key
from model.scoring.votes import visited_share


def proposals(frame: pd.DataFrame, evaluation: Evaluation) -> dict[Key, Proposals]:
    """Proposals of every answer for each test input, numbered as `Evaluation.number` says."""
    rows: dict[Key, list[tuple[Grid, int, float, float]]] = {}
    frame = frame.sort_values(["attempt", "view"], kind="stable")
    names = ("task", "test", "grid", "view", "attempt", "confidence", "last_changed_step")
    columns = (frame[name].tolist() for name in names)
    for task, test, grid, view, attempt, confidence, last_changed_step in zip(*columns, strict=True):
        visited = visited_share(last_changed_step, evaluation.steps)
        rows.setdefault((task, test), []).append((grid, evaluation.number(view, attempt), confidence, visited))
    return {key: collect_proposals(*zip(*proposed, strict=True)) for key, proposed in rows.items()}
