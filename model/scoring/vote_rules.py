"""Voting rules: what each view adds to the weight of the grid that it proposes, one function each.

The weight of grid g is the sum over the views v with g_v = g of w_v; the rule 'likelihood' divides it by the number of
views that vote, and adds `worth` of the grid. To add a rule, write its function here, put it
into RULES, and add its name to `VoteRule`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.config.evaluation import LikelihoodWeight, VoteRule
from model.scoring.proposals import Proposals

DOUBT = 1e-7
"""The least doubt that a float32 mean of probabilities tells from none."""

Weights = NDArray[np.float64]
"""(views,), or of their sums (candidates,)."""


def most_frequent(proposals: Proposals) -> Weights:
    """w_v = 1: the grid that most views propose."""
    return np.ones(len(proposals.choice))


def confidence(proposals: Proposals) -> Weights:
    """w_v = mean probability of the likeliest colours at the last step."""
    return proposals.confidence


def certainty(proposals: Proposals) -> Weights:
    """w_v = 1 / (1 - p + DOUBT), with p the view's confidence: twice as much for half the doubt.

    Confidences of a trained network are so close to 1 (half of them above 0.99999) that their sum is a count.
    """
    return 1 / (1 - proposals.confidence + DOUBT)


def most_visited(proposals: Proposals) -> Weights:
    """w_v = share of the denoising steps that were at the grid that the view proposes."""
    return proposals.visited


def worth(proposals: Proposals, config: LikelihoodWeight) -> NDArray[np.float64]:
    """What the rule 'likelihood' adds to the candidates' shares of the votes, (candidates,): weight times nats.

    Only the most frequent grids have a likelihood (Evaluation.ranking); one with fewer votes counts as the least likely
    of these, so that it stays below all of them. One with more votes is of a pool (`arc pool`) whose other member had
    no second grid to compare it with, and counts as the likeliest. Without any likelihood the votes alone decide.
    """
    nats = proposals.log_likelihood
    if config.per == "grid":
        nats = nats * [grid.size for grid in proposals.candidates]
    known = ~np.isnan(nats)
    if not known.any():
        return np.zeros(len(nats))
    votes = np.bincount(proposals.choice, minlength=len(nats))
    others = np.where(votes > votes[known].max(), nats[known].max(), nats[known].min())
    return config.weight * np.where(known, nats, others)


RULES: dict[VoteRule, Callable[[Proposals], Weights]] = {
    "most-frequent": most_frequent,
    "confidence": confidence,
    "certainty": certainty,
    "most-visited": most_visited,
    "likelihood": most_frequent,
}
