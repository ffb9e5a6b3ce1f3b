"""From attempts to scores. A missing or failed answer is wrong and stays in the denominator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.config.evaluation import Evaluation, LikelihoodWeight, RepeatedVotes, VoteRule
from model.puzzles.grids import Grid
from model.scoring.proposals import Proposals, collect_proposals
from model.scoring.statistics import bootstrap_interval
from model.scoring.votes import attempts

Key = tuple[str, int]
"""Task id and test input."""
NOTHING: Grid = np.zeros((0, 0), dtype=np.uint8)


def score(
    solutions: Mapping[str, Sequence[Grid]],
    attempts: Mapping[Key, Sequence[Grid]],
    views: Mapping[Key, Proposals],
    resamples: int,
) -> dict[str, Any]:
    """Scores over the tasks of `solutions`.

    `attempts` are at most two grids a test input, in order; `views` every grid that was proposed. pass@k is the mean
    over tasks of the share of their test grids that one of the first k attempts gets exactly right; `strict` the share
    of tasks with every grid right; `oracle` as pass@k for any view. Shares are 0..1, `ci95...` their 95 % intervals
    over tasks (plain `ci95` of pass@2).
    """
    tasks = {
        name: [
            _grid_result(answer, attempts.get((name, i), ()), views.get((name, i))) for i, answer in enumerate(grids)
        ]
        for name, grids in solutions.items()
    }
    first, either, oracle = (
        np.array([np.mean([g[key] for g in grids]) for grids in tasks.values()])
        for key in ("attempt_1", "solved", "any_view")
    )
    flat = [grid for grids in tasks.values() for grid in grids]
    return {
        "pass_at_1": float(first.mean()),
        "ci95_pass_at_1": list(bootstrap_interval(first, resamples)),
        "pass_at_2": float(either.mean()),
        "ci95": list(bootstrap_interval(either, resamples)),
        "strict": float((either == 1).mean()),
        "ci95_strict": list(bootstrap_interval((either == 1).astype(np.float64), resamples)),
        "oracle": float(oracle.mean()),
        "ci95_oracle": list(bootstrap_interval(oracle, resamples)),
        "sizes_correct": float(np.mean([g["size"] for g in flat])),
        "second_attempt_right": float(np.mean([g["attempt_2"] for g in flat])),
        "grids_solved": int(sum(g["solved"] for g in flat)),
        "n_tasks": len(tasks),
        "n_grids": len(flat),
        "missing": [[name, i] for name, grids in tasks.items() for i, g in enumerate(grids) if g["missing"]],
        "solved_tasks": [name for name, share in zip(tasks, either, strict=True) if share == 1],
        "partly_solved_tasks": [name for name, share in zip(tasks, either, strict=True) if 0 < share < 1],
        "tasks": tasks,
    }


def attempts_of(
    views: Mapping[Key, Proposals],
    evaluation: Evaluation,
    rule: VoteRule = "most-frequent",
    size_first: bool = False,
    count: int = 0,
    likelihood: LikelihoodWeight | None = None,
) -> dict[Key, list[Grid]]:
    """The two attempts of each test input: of the vote over its views, of repeated votes, or those made as they are.

    NOTHING replaces a first attempt that failed if the second did not.
    """
    if isinstance(evaluation.answers, RepeatedVotes):
        return {key: _winners(given, evaluation.answers, rule, size_first, count) for key, given in views.items()}
    if not evaluation.voting:
        return {
            key: [NOTHING] * int(given.view[0]) + [given.candidates[i] for i in given.choice]
            for key, given in views.items()
        }
    return {key: attempts(given, rule, size_first, count, likelihood) for key, given in views.items()}


def _winners(given: Proposals, config: RepeatedVotes, rule: VoteRule, size_first: bool, count: int) -> list[Grid]:
    """The winner of each repetition's own vote."""
    winners: list[Grid] = []
    for repetition in range(config.repetitions):
        own = np.flatnonzero(given.view // config.views == repetition)
        grids = [given.candidates[i] for i in given.choice[own]]
        view = given.view[own] - repetition * config.views
        voted = collect_proposals(grids, view.tolist(), given.confidence[own].tolist(), given.visited[own].tolist())
        winners.append(next(iter(attempts(voted, rule, size_first, count)), NOTHING))
    while winners and winners[-1] is NOTHING:
        winners.pop()
    return winners


def right_candidate(answer: Grid, given: Proposals | None) -> int | None:
    """Which candidate is the answer; None if none is."""
    for i, candidate in enumerate(given.candidates if given else ()):
        if np.array_equal(candidate, answer):
            return i
    return None


def _grid_result(answer: Grid, attempts: Sequence[Grid], given: Proposals | None) -> dict[str, Any]:
    right = [bool(np.array_equal(attempt, answer)) for attempt in attempts[:2]]
    candidate = right_candidate(answer, given)
    return {
        "solved": any(right),
        "attempt_1": right[:1] == [True],
        "attempt_2": right[1:] == [True],
        "any_view": candidate is not None,
        "votes_for_the_answer": int((given.choice == candidate).sum()) if given and candidate is not None else 0,
        "views": len(given.choice) if given else 0,
        "size": len(attempts) > 0 and attempts[0].shape == answer.shape,
        "missing": len(attempts) == 0,
    }
