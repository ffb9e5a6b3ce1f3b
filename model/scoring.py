"""From attempts to scores. A missing or failed answer is wrong and stays in the denominator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.configuration import Evaluation
from model.grids import Grid
from model.statistics import bootstrap_interval
from model.voting import most_frequent

Key = tuple[str, int]
"""Task id and test input."""


def score(
    solutions: Mapping[str, Sequence[Grid]],
    attempts: Mapping[Key, Sequence[Grid]],
    views: Mapping[Key, Sequence[Grid]],
    resamples: int,
) -> dict[str, Any]:
    """Scores over the tasks of `solutions`.

    `attempts` are at most two grids a test input, in order; `views` every grid that was proposed. pass@k is the mean
    over tasks of the share of their test grids that one of the first k attempts gets exactly right; `strict` the share
    of tasks with every grid right; `oracle` as pass@k for any view. Shares are 0..1.
    """
    tasks = {
        name: [
            _grid_result(answer, attempts.get((name, i), ()), views.get((name, i), ()))
            for i, answer in enumerate(grids)
        ]
        for name, grids in solutions.items()
    }
    first = np.array([np.mean([g["attempt_1"] for g in grids]) for grids in tasks.values()])
    either = np.array([np.mean([g["solved"] for g in grids]) for grids in tasks.values()])
    flat = [grid for grids in tasks.values() for grid in grids]
    return {
        "pass_at_1": float(first.mean()),
        "pass_at_2": float(either.mean()),
        "ci95": list(bootstrap_interval(either, resamples)),
        "strict": float((either == 1).mean()),
        "oracle": float(np.mean([np.mean([g["any_view"] for g in grids]) for grids in tasks.values()])),
        "sizes_correct": float(np.mean([g["size"] for g in flat])),
        "second_attempt_right": float(np.mean([g["attempt_2"] for g in flat])),
        "grids_solved": int(sum(g["solved"] for g in flat)),
        "n_tasks": len(tasks),
        "n_grids": len(flat),
        "missing": [[name, i] for name, grids in tasks.items() for i, g in enumerate(grids) if g["missing"]],
        "tasks": tasks,
    }


def attempts_of(views: Mapping[Key, Sequence[Grid]], evaluation: Evaluation) -> dict[Key, list[Grid]]:
    """The two attempts of each test input: the vote over its views, or its independent attempts as they are."""
    return {key: most_frequent(grids) if evaluation.votes else list(grids[:2]) for key, grids in views.items()}


def _grid_result(answer: Grid, attempts: Sequence[Grid], views: Sequence[Grid]) -> dict[str, Any]:
    right = [bool(np.array_equal(attempt, answer)) for attempt in attempts[:2]]
    votes = sum(np.array_equal(view, answer) for view in views)
    return {
        "solved": any(right),
        "attempt_1": bool(right[:1] == [True]),
        "attempt_2": bool(right[1:] == [True]),
        "any_view": votes > 0,
        "votes_for_the_answer": votes,
        "views": len(views),
        "size": bool(len(attempts) > 0 and attempts[0].shape == answer.shape),
        "missing": len(attempts) == 0,
    }
