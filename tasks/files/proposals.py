"""The grids proposed for each test input, read from stored predictions."""

import numpy as np
import pandas as pd

from model.config.evaluation import Evaluation
from model.puzzles.grids import Grid
from model.scoring.proposals import Proposals, collect_proposals
from model.scoring.scores import Key
from model.scoring.votes import visited_share


def proposals(frame: pd.DataFrame, evaluation: Evaluation) -> dict[Key, Proposals]:
    """Proposals of every answer for each test input, numbered as `Evaluation.number` says."""
    rows: dict[Key, list[tuple[Grid, int, float, float, float]]] = {}
    frame = frame.sort_values(["attempt", "view"], kind="stable")
    names = ("task", "test", "grid", "view", "attempt", "confidence", "last_changed_step", "log_likelihoods")
    columns = (frame[name].tolist() for name in names)
    for task, test, grid, view, attempt, confidence, last_changed_step, values in zip(*columns, strict=True):
        visited = visited_share(last_changed_step, evaluation.steps)
        likelihood = np.nan if values is None else float(np.mean([np.mean(of_view) for of_view in values]))
        number = evaluation.number(view, attempt)
        rows.setdefault((task, test), []).append((grid, number, confidence, visited, likelihood))
    return {key: collect_proposals(*zip(*proposed, strict=True)) for key, proposed in rows.items()}
