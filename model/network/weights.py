"""The weights of a block, as parameters and as they are cast for a computation.

Dimensions: H heads, D width, F feed-forward width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config.network import Network


class BlockWeights(NamedTuple):
    """The weights of a block, cast to the dtype of the computation."""

    attention_in: Tensor
    """(3 D, D): query, key and value."""
    attention_out: Tensor
    """(D, D)."""
    feed_in: Tensor
    """(2 F, D): gates and values of SwiGLU."""
    feed_out: Tensor
    """(D, F)."""


class IOWeights(NamedTuple):
    """The weights of embeddings and output heads, cast likewise."""

    input_cells: Tensor
    output_cells: Tensor
    time: Tensor
    colour_head: Tensor
    size_in: Tensor
    size_in_bias: Tensor
    size_out: Tensor
    size_out_bias: Tensor


class Block(nn.Module):
    """The weights of one transformer layer, shared by context and target rows."""

    def __init__(self, config: Network) -> None:
        super().__init__()
        self.attention_in = nn.Linear(config.width, 3 * config.width, bias=False)
        self.attention_out = nn.Linear(config.width, config.width, bias=False)
        self.feed_in = nn.Linear(config.width, 2 * config.feed_forward, bias=False)
        self.feed_out = nn.Linear(config.feed_forward, config.width, bias=False)
        self.log_gain = nn.Parameter(torch.empty(config.heads)) if config.head_gains == "learned" else None
        """(H,): logarithms of the heads' factors of attention scores."""
        self.convolution = nn.Parameter(torch.empty(9, config.feed_forward)) if config.convolution == "3x3" else None
        """(9, F): the kernel of each column over the neighbours of `convolution.OFFSETS`."""
