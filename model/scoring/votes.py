"""From the views' answers to two attempts: the vote over the grids that they propose."""

import numpy as np

from model.config.evaluation import LikelihoodWeight, VoteRule
from model.puzzles.grids import Grid
from model.scoring.proposals import Proposals
from model.scoring.vote_rules import RULES, Weights, worth


def visited_share(last_changed_step: int, steps: int) -> float:
    """Share of `steps` after which the grid was already the last one; `last_changed_step` is 0 if none changed it."""
    return min(steps, steps - last_changed_step + 1) / steps


def vote(
    proposals: Proposals,
    rule: VoteRule,
    size_first: bool = False,
    views: int = 0,
    likelihood: LikelihoodWeight | None = None,
) -> list[int]:
    """Candidates by falling weight, the winner first; the first two are the attempts.

    Ties go to the candidate of the earlier view. `size_first`: the candidates of the heaviest size go before all
    others. `views`: only those numbered below it vote; 0 for all. `likelihood`: what it is worth under the rule of that
    name, nothing without.
    """
    voters = int(proposals.view.searchsorted(views)) if views else len(proposals.view)
    choice = proposals.choice[:voters]
    weight: Weights = np.bincount(choice, RULES[rule](proposals)[:voters]).astype(np.float64)
    other_size = np.zeros(len(weight), dtype=bool)
    if size_first and len(weight):
        size = proposals.size[: len(weight)]
        other_size = size != np.bincount(size, weight).argmax()
    if rule == "likelihood" and likelihood and len(weight):  # After the sizes, which votes alone decide.
        weight = weight / voters + worth(proposals, likelihood)[: len(weight)]
    # Candidates are numbered by their first view, so a stable sort breaks ties as promised.
    return [int(i) for i in np.lexsort((-weight, other_size))]


def attempts(
    proposals: Proposals,
    rule: VoteRule,
    size_first: bool = False,
    views: int = 0,
    likelihood: LikelihoodWeight | None = None,
) -> list[Grid]:
    """The two heaviest distinct grids, or the one there is."""
    return [proposals.candidates[i] for i in vote(proposals, rule, size_first, views, likelihood)[:2]]
