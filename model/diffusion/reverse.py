"""The reverse process: from x_t to a less noisy x_s, given an estimate of the clean grid x_0.

For a stride t -> s with 1 - beta = alpha_bar_t / alpha_bar_s, Bayes' rule gives for one cell with x_t = k

    q(x_s = j | x_t = k) is proportional to
        [(1 - beta) 1(j = k) + beta / 10] [alpha_bar_s p_j + (1 - alpha_bar_s) / 10]

where p is a distribution of x_0 that has not seen x_t.
"""

import torch
from torch import Tensor
from torch.nn import functional

from model.diffusion.schedule import Levels
from model.ops.keyed_random import categorical
from model.puzzles.grids import COLOURS


def posterior(estimate: Tensor, colours: Tensor, alpha_bar_previous: Tensor, beta: Tensor) -> Tensor:
    """The equation above: float (N, 10), rows sum to 1.

    `estimate` (N, 10) is p, `colours` int (N,) is x_t; `alpha_bar_previous` (N,) belongs to s and `beta` (N,) to the
    stride.
    """
    likelihood = functional.one_hot(colours.long(), COLOURS) * (1 - beta)[:, None] + beta[:, None] / COLOURS
    prior = estimate * alpha_bar_previous[:, None] + (1 - alpha_bar_previous)[:, None] / COLOURS
    joint = likelihood * prior
    return joint / joint.sum(-1, keepdim=True)


def reverse_probabilities(probabilities: Tensor, colours: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """p(x_s | x_t) = sum over x_0 of q(x_s | x_t, x_0) p(x_0 | x_t), exact for any stride; float (N, 10).

    `probabilities` (N, 10) are the network's p(x_0 | x_t), `colours` int64 (N,) is x_t; `alpha_bar` (N,) belongs to t
    and `alpha_bar_next` (N,) to s. Since the network has seen x_t and `posterior` expects a p that has not,
    q(x_t | x_0) is divided out first.
    """
    likelihood = functional.one_hot(colours, COLOURS) * alpha_bar[:, None] + (1 - alpha_bar)[:, None] / COLOURS
    prior = probabilities / likelihood
    beta = 1 - alpha_bar / alpha_bar_next
    return posterior(prior / prior.sum(-1, keepdim=True), colours, alpha_bar_next, beta)


def reverse_step(logits: Tensor, noisy: Tensor, level: Tensor, levels: Levels, draw: Tensor) -> Tensor:
    """Draw x_{t-1} ~ p(x_{t-1} | x_t): colours int64 (N,).

    `logits` (N, 10) are the network's, `noisy` int64 (N,) is x_t at `level` int64 (N,), at least 1; `draw` (N,) are
    uniform draws from [0, 1).
    """
    previous = levels.alpha_bar_previous[level]
    probabilities = reverse_probabilities(logits.softmax(-1), noisy, levels.alpha_bar[level], previous)
    return categorical(probabilities, draw)


def argmax_reverse_step(logits: Tensor, noisy: Tensor, level: Tensor, levels: Levels) -> Tensor:
    """x_{t-1} as the lab chose it (version ledger, v7 temporal and B3): colours int64 (N,); arguments as above.

    The argmax of `posterior` under the network's p(x_0 | x_t), without the term beta / 10 of the current colour. It
    returns x_t itself, but at level 1 where a current colour of probability near 0 meets another of more than 0.6.
    """
    beta, previous = levels.beta[level][:, None], levels.alpha_bar_previous[level][:, None]
    prior = (1 - previous) / COLOURS + previous * logits.float().softmax(-1)
    current = functional.one_hot(noisy, COLOURS).bool()
    return torch.where(current, (1 - beta) * prior, beta / COLOURS * prior).argmax(-1)
