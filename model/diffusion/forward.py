"""The forward process: replacing colours by uniform noise.

    q(x_t = j | x_0 = i) = alpha_bar_t 1(i = j) + (1 - alpha_bar_t) / 10

A cell keeps its colour with probability alpha_bar_t; otherwise it gets a colour drawn uniformly from all ten, its own
included.
"""

import torch
from torch import Tensor

from model.puzzles.grids import COLOURS


def add_noise(colours: Tensor, alpha_bar: Tensor, keep: Tensor, replacement: Tensor) -> Tensor:
    """Draw x_t ~ q(x_t | x_0): int (N,), as `colours`, the clean grid with values 0..9.

    `alpha_bar` float (N,) or () belongs to the level of each cell; `keep` and `replacement` (N,) are uniform draws from
    [0, 1).
    """
    return torch.where(keep < alpha_bar, colours, (replacement * COLOURS).to(colours.dtype))
