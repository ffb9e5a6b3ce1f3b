"""The likelihood of given grids under the network: how well it restores them from noise.

For a candidate x_0 of n cells, seen under view v, at noise level t:

    x_t ~ q(x_t | x_0)
    l(v, t) = (1 / n) sum over cells i of log p(x_0^i | x_t)

in nats a cell, one draw of x_t for each (v, t). All candidates of a test input get the same draws: a cell at (row,
column) is replaced in all of them or in none, by the same colour, so that differences between candidates have less
variance than the values themselves.

Relation to the ELBO. Its term at level t is KL(q(x_{t-1} | x_t, x_0) || sum over x_0' of q(x_{t-1} | x_t, x_0')
p(x_0' | x_t)), which is at most -log p(x_0 | x_t) by the convexity of KL. So the sum over all T levels of n l(v, t) is,
in expectation and up to the constant KL(q(x_T | x_0) || p(x_T)), a lower bound on the ELBO and thereby on log p(x_0):
n T times the mean over evenly spaced levels estimates it. It is the ELBO without its weights by level, as the training
loss is.
"""

import torch
from torch import Tensor

from model.config.diffusion import SelfConditioning
from model.config.evaluation import Evaluation
from model.diffusion import self_conditioning
from model.diffusion.forward import add_noise
from model.diffusion.schedule import Levels, inference_levels
from model.inference.denoising import conditioning_mode
from model.network.denoiser import Denoiser
from model.network.packing import Packed
from model.ops.compilation import maybe_compile
from model.ops.keyed_random import uniform
from model.ops.random_purposes import LikelihoodDraw


@torch.no_grad()
def log_likelihoods(
    network: Denoiser,
    packed: Packed,
    clean: Tensor,
    table: Levels,
    conditioning: SelfConditioning,
    config: Evaluation,
    levels: int,
    key: Tensor,
) -> Tensor:
    """l(v, t) of every target of `packed` at `levels` evenly spaced noise levels, noisiest first: float (S, levels).

    `clean` int64 (T,) are the candidates' colours in the view's colours, in the order of the target rows; `key` int64
    (S,) stands for (seed, grid, view), the same for all candidates. The network gets no estimate of a step before,
    which there is not; with two passes it gets its own, as it does when it answers. No level waits for the device.
    """
    encoded = network.encode(packed)
    row_key = key[packed.target_example]
    width = packed.examples.output_width[packed.target_example]
    row, column = packed.target_cell // width, packed.target_cell % width
    cells = packed.target_segments.query_starts.diff()
    two_passes = conditioning_mode(conditioning, config) == "two-pass"
    likelihoods = []
    for i, level in enumerate(inference_levels(len(table.beta), levels)):
        alpha_bar, time = table.alpha_bar[level : level + 1], table.time[level : level + 1]
        gain = self_conditioning.gain(conditioning, alpha_bar, i / max(1, levels - 1))
        keep = uniform(row_key, LikelihoodDraw.KEEP, level, row, column)
        replacement = uniform(row_key, LikelihoodDraw.REPLACEMENT, level, row, column)
        noisy = add_noise(clean, alpha_bar, keep, replacement)
        features = None
        if two_passes:
            first_logits = network.denoise(packed, encoded, noisy, time, None, gain)
            features = self_conditioning.features(conditioning, first_logits)
        logits = network.denoise(packed, encoded, noisy, time, features, gain)
        of_cells = _log_probability(logits, clean)
        # unsafe: a check of the lengths would wait for the device.
        likelihoods.append(torch.segment_reduce(of_cells, "mean", lengths=cells, axis=0, initial=0.0, unsafe=True))
    return torch.stack(likelihoods, -1)


@maybe_compile
def _log_probability(logits: Tensor, colours: Tensor) -> Tensor:
    """Log-probability of each cell's colour, float32 (T,), from logits (T, 10)."""
    return logits.float().log_softmax(-1).gather(-1, colours[:, None])[:, 0]
