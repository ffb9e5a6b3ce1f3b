"""The neighbours of the cells of packed grids, for a 3x3 depthwise convolution inside the gated feed-forward (as in URM
and Loop-ViT).

Rows hold valid cells only, of several grids, so the neighbours of a cell are found by index, once for a batch. They
are those in the frame of its view, never of another grid; beyond the edge are zeros. Prefix rows have no neighbours.

Dimensions: S sequences, C context rows, T target rows, N rows of either kind.
"""

import functools

import torch
from torch import Tensor

from model.network.packing import Packed
from model.ops.compilation import maybe_compile
from model.ops.convolution import OFFSETS, Neighbours


@functools.partial(maybe_compile, static=True)
def neighbours(packed: Packed) -> tuple[Neighbours, Neighbours]:
    """The neighbours of each row, for contexts and for targets."""
    examples, swapped = packed.examples, packed.view_swaps
    cells_start = packed.prefix_rows.view(len(swapped), -1)[:, -1] + 1
    of_context, of_target = packed.context_example, packed.target_example
    inputs = _shown(examples.input_height, examples.input_width, swapped)
    outputs = _shown(examples.output_height, examples.output_width, swapped)
    context_sides, target_sides = (tuple(side[of] for side in sides) for sides, of in
                                   ((inputs, of_context), (outputs, of_target)))  # fmt: skip
    is_input = packed.context_prefix < 0
    target_start = torch.arange(len(of_target), device=of_target.device) - packed.target_cell
    return (
        _neighbours(packed.context_position, is_input, cells_start[of_context], *context_sides),
        _neighbours(packed.target_position, torch.ones_like(packed.target_real), target_start, *target_sides),
    )


def _shown(height: Tensor, width: Tensor, swapped: Tensor) -> tuple[Tensor, Tensor]:
    """Sides of the grids (S,) in the frames of their views."""
    return torch.where(swapped, width, height), torch.where(swapped, height, width)


def _neighbours(position: Tensor, is_cell: Tensor, start: Tensor, height: Tensor, width: Tensor) -> Neighbours:
    """Of each row: `position` float (N, 3) is row, column and grid, `is_cell` bool (N,), and `start`, `height` and
    `width`, int64 (N,), are the first row and the sides of its grid in the view's frame.
    """
    own = torch.arange(len(start), device=start.device)
    row, column = position[:, 0].to(torch.int64), position[:, 1].to(torch.int64)
    # Rows in the order of the view's frame, and back: the cells of a grid take the same rows in another order.
    place = torch.where(is_cell, start + row * width + column, own)
    at = torch.empty_like(own).scatter_(0, place, own)
    k = torch.arange(len(OFFSETS), device=start.device)  # Made on the device: a recorded step copies nothing to it.
    r, c = row[:, None] + k // 3 - 1, column[:, None] + k % 3 - 1
    inside = is_cell[:, None] & (r >= 0) & (r < height[:, None]) & (c >= 0) & (c < width[:, None])
    neighbour = at[torch.where(inside, start[:, None] + r * width[:, None] + c, 0)]
    rows = torch.where(inside, neighbour, len(own))
    above, left, cell, right, below = (inside[:, k].to(torch.int64) for k in (1, 3, 4, 5, 7))
    flags = above + 2 * below + 4 * left + 8 * right + 16 * cell
    line = below * (rows[:, 7] - own) + above * (1 - below) * (own - rows[:, 1])
    packed_row = ((own - place) << 12) + ((line + 64) << 5) + flags
    return Neighbours(rows.to(torch.int32), packed_row[at].to(torch.int32))
