"""Voting rules: what each view adds to the weight of the grid that it proposes, one function each.

The weight of grid g is the sum over the views v with g_v = g of w_v. To add a rule, write its function here, put it
into RULES, and add its name to `VoteRule`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.config.evaluation import VoteRule
from model.scoring.proposals import Proposals

Weights = NDArray[np.float64]
"""(views,)."""


def most_frequent(proposals: Proposals) -> Weights:
    """w_v = 1: the grid that most views propose."""
    return np.ones(len(proposals.choice))


def confidence(proposals: Proposals) -> Weights:
    """w_v = mean probability of the likeliest colours at the last step."""
    return proposals.confidence


def most_visited(proposals: Proposals) -> Weights:
    """w_v = share of the denoising steps that were at the grid that the view proposes."""
    return proposals.visited


RULES: dict[VoteRule, Callable[[Proposals], Weights]] = {
    "most-frequent": most_frequent,
    "confidence": confidence,
    "most-visited": most_visited,
}
