"""Recount of the same proposals with fewer views or another rule, and the distribution of votes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.config.evaluation import LikelihoodWeight, VoteRule
from model.puzzles.grids import Grid
from model.scoring.proposals import Proposals
from model.scoring.scores import Key, right_candidate
from model.scoring.statistics import bootstrap_interval
from model.scoring.vote_rules import RULES
from model.scoring.votes import vote

WEIGHTS = (0.0, *(4.0**k for k in range(-5, 6)))
"""Of the rule 'likelihood', in shares of the votes a nat; differences are 0.001 to 1 nat a cell, 0.1 to 100 a grid."""


class Replay:
    """Proposals with the correct ones marked once, so that recounts are cheap."""

    def __init__(self, solutions: Mapping[str, Sequence[Grid]], views: Mapping[Key, Proposals]) -> None:
        keys = [(name, i) for name, grids in solutions.items() for i in range(len(grids))]
        self.proposals = [views.get(key) for key in keys]
        self.right = [right_candidate(solutions[key[0]][key[1]], views.get(key)) for key in keys]
        self.task = np.repeat(np.arange(len(solutions)), [len(grids) for grids in solutions.values()])
        self.views = max((int(given.view[-1]) + 1 for given in self.proposals if given), default=0)

    @property
    def ranked(self) -> bool:
        """Whether any candidate has a likelihood."""
        return any(given is not None and not np.isnan(given.log_likelihood).all() for given in self.proposals)

    def count(
        self,
        rule: VoteRule,
        size_first: bool,
        views: int,
        resamples: int,
        likelihood: LikelihoodWeight | None = None,
    ) -> dict[str, Any]:
        """Score of the vote of the first `views` views; `gap` is what the best choice among them would add."""
        first, second, seen = np.zeros((3, len(self.right)))
        for i, (given, right) in enumerate(zip(self.proposals, self.right, strict=True)):
            if given is None or right is None:
                continue
            order = vote(given, rule, size_first, views, likelihood)
            first[i], second[i], seen[i] = right in order[:1], right in order[1:2], right in order
        either = self._by_task(first + second)
        oracle = float(self._by_task(seen).mean())
        return {
            "views": views,
            "pass_at_1": _short(self._by_task(first).mean()),
            "pass_at_2": _short(either.mean()),
            "ci95": [_short(end) for end in bootstrap_interval(either, resamples)],
            "oracle": _short(oracle),
            "gap": _short(oracle - either.mean()),
        }

    def curve(
        self, rule: VoteRule, size_first: bool, resamples: int, likelihood: LikelihoodWeight | None = None
    ) -> list[dict[str, Any]]:
        """The score of 1, 2, 4, ... and of all views."""
        return [self.count(rule, size_first, n, resamples, likelihood) for n in numbers_of_views(self.views)]

    def rules(self, views: int, resamples: int, likelihood: LikelihoodWeight | None = None) -> list[dict[str, Any]]:
        """The score of every rule. To choose one by these is a selection on the reported set."""
        return [
            {"rule": rule, "size_first": first, **self.count(rule, first, views, resamples, likelihood)}
            for rule in RULES
            for first in (False, True)
            if rule != "likelihood" or self.ranked
        ]

    def likelihood_weights(self, size_first: bool, views: int, resamples: int) -> list[dict[str, Any]]:
        """The score of the rule 'likelihood' for each of WEIGHTS and either unit, the votes alone first.

        To choose one by those of the reported set is a selection on it; `best_weight` is for validation tasks.
        """
        pers: tuple[Literal["cell", "grid"], ...] = ("cell", "grid")
        settings = [LikelihoodWeight(weight=weight, per=per) for per in pers for weight in WEIGHTS]
        return [
            {**config.model_dump(), **self.count("likelihood", size_first, views, resamples, config)}
            for config in settings
        ]

    def histogram(self) -> dict[str, list[list[int]]]:
        """Histogram of views per test grid: for the solution, and for the most frequent grid; [views, grids]."""
        answer, winner = Counter[int](), Counter[int]()
        for given, right in zip(self.proposals, self.right, strict=True):
            counts = np.bincount(given.choice) if given else np.zeros(1, dtype=np.int64)
            answer[0 if right is None else int(counts[right])] += 1
            winner[int(counts.max())] += 1
        return {
            "votes_for_the_answer": [list(item) for item in sorted(answer.items())],
            "votes_for_the_most_frequent": [list(item) for item in sorted(winner.items())],
        }

    def _by_task(self, solved: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(self.task, solved) / np.bincount(self.task), dtype=np.float64)


def best_weight(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """That of `Replay.likelihood_weights` with the highest pass@2, then pass@1; of equal ones the smallest weight."""
    return max(rows, key=lambda row: (row["pass_at_2"], row["pass_at_1"], -row["weight"]))


def numbers_of_views(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [1 << k for k in range(most.bit_length()) if 1 << k < most] + ([most] if most else [])


def _short(share: Any) -> float:
    return round(float(share), 6)
