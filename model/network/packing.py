"""Packed batches: the valid cells of many examples, concatenated, in a constant number of rows.

A row is one token. Each example has a context (task token, conditioning tokens, size token, input cells) and a target
(output cells). Cells are enumerated in the frame of the original grid; a view transforms their coordinates (D4) and
colours (table look-up), so that no grid is copied and predicted positions need no inverse transform.

Dimensions: S sequences (examples and padding), C context rows, T target rows, P prefix rows of a sequence.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.device_data import DeviceData
from model.ops.compilation import maybe_compile
from model.ops.segments import Segments, make_segments
from model.puzzles.grids import HIDDEN


class Examples(NamedTuple):
    """The grids and the view of each sequence, int64 (S,) each. Offsets index DeviceData.cells; -1 means no cells."""

    task: Tensor
    view: Tensor
    input_offset: Tensor
    input_height: Tensor
    input_width: Tensor
    output_offset: Tensor
    output_height: Tensor
    output_width: Tensor
    real: Tensor
    """1, or 0 for a sequence of padding."""


class Budget(NamedTuple):
    """Shape of a packed batch, the same for every batch where kernels are compiled or recorded."""

    sequences: int
    context: int
    """Context rows of all sequences."""
    target: int
    """Target rows of all sequences."""
    longest_context: int
    """Upper bound on the context rows of one sequence, which the attention kernels need."""
    longest_target: int


class Packed(NamedTuple):
    """The rows of one batch, without noise."""

    examples: Examples
    view_tokens: Tensor
    """int64 (S, conditioning tokens): rows of the network's conditioning table."""
    view_swaps: Tensor
    """bool (S,): the view swaps height and width."""
    context_example: Tensor
    """int64 (C,): the sequence of each row."""
    context_colour: Tensor
    """int64 (C,): colour under the view; HIDDEN at prefix rows and padding."""
    context_position: Tensor
    """float32 (C, 3): row, column, grid (0 prefix, 1 input, 2 output) in the view's frame."""
    prefix_rows: Tensor
    """int64 (S * P,): the context row of each prefix token."""
    context_prefix: Tensor
    """int64 (C,): the inverse of `prefix_rows`, the prefix token in each context row; -1 for none."""
    target_example: Tensor
    """int64 (T,): the sequence of each row."""
    target_cell: Tensor
    """int64 (T,): index of the cell in its grid, row-major in the original frame."""
    target_colour: Tensor
    """int64 (T,): clean colour under the view; HIDDEN where unknown and at padding."""
    target_position: Tensor
    """float32 (T, 3): as `context_position`."""
    target_real: Tensor
    """bool (T,): False at padding."""
    context_segments: Segments
    """Context rows attend to the context of their sequence."""
    size_segments: Segments
    """The size token of each sequence attends to its context."""
    target_segments: Segments
    """Target rows attend to context and target of their sequence."""
    context_slots: Tensor
    """int64 (C,): the slot of each context row in the key and value buffers (C + T, ...), which hold the sequences one
    after another, each with its context rows before its target rows."""
    target_slots: Tensor
    """int64 (T,): likewise for target rows."""


def pad_to_budget(rows: list[tuple[int, ...]], prefix: int, budget: Budget | None) -> tuple[NDArray[np.int64], Budget]:
    """Tabulate examples as int64 (9, S), the fields of `Examples`, and pad them to `budget`; None adds no padding.

    `rows` hold the fields of `Examples` without `real`; `prefix` is the number of prefix rows of a sequence. Padding
    rows are divided into sequences no longer than the longest example, so that the attention kernels write every row,
    and into as few as possible, which costs least. Raises ValueError where the examples exceed the budget.
    """
    table = np.array([(*row, 1) for row in rows], dtype=np.int64).reshape(-1, len(Examples._fields)).T
    context = int((table[3] * table[4] + prefix).sum())
    target = int((table[6] * table[7]).sum())
    if budget is None:
        longest = int((table[3] * table[4]).max()) + prefix, int((table[6] * table[7]).max())
        return np.ascontiguousarray(table), Budget(table.shape[1], context, target, *longest)
    free = budget.sequences - table.shape[1]
    spare_context, spare_target = budget.context - context - prefix * free, budget.target - target
    if min(free, spare_context, spare_target) < 0:
        raise ValueError(
            f"{table.shape[1]} examples with {context} context and {target} target rows do not fit {budget}; "
            "pack fewer examples in a batch"
        )
    filler = np.zeros((len(Examples._fields), free), dtype=np.int64)
    filler[2] = filler[5] = -1
    longest = budget.longest_context - prefix, budget.longest_target
    for height, width, spare, most in ((3, 4, spare_context, longest[0]), (6, 7, spare_target, longest[1])):
        if spare > free * most:
            # Rows beyond the longest are never written; uninitialised memory would reach the gradients.
            raise ValueError(
                f"{free} padding sequences cannot take {spare} rows, at most {most} each, to fill {budget}; "
                "pack more examples in a batch or enlarge budget.sequences"
            )
        filler[height] = 1
        filler[width] = (spare - most * np.arange(free)).clip(0, most)
    # Contiguous, as its recorded copy: for another layout the compiler would make another kernel, while it is recorded.
    return np.ascontiguousarray(np.concatenate([table, filler], axis=1)), budget


@functools.partial(maybe_compile, static=True)
def pack(table: Tensor, data: DeviceData, prefix: int, budget: Budget) -> Packed:
    """Lay out the rows of a batch from the table of `pad_to_budget`, int64 (9, S), on the device of `data`."""
    longest = budget.longest_context, budget.longest_target
    examples = Examples(*table)
    device = table.device
    context_length = examples.input_height * examples.input_width + prefix
    target_length = examples.output_height * examples.output_width
    context_start, target_start = (
        context_length.cumsum(0) - context_length,
        target_length.cumsum(0) - target_length,
    )

    c_row = torch.arange(budget.context, device=device)
    c_example = torch.searchsorted(context_start, c_row, right=True) - 1
    c_local = c_row - context_start[c_example]
    is_prefix = c_local < prefix
    c_cell = (c_local - prefix).clamp(min=0)
    c_visible = ~is_prefix & (examples.real[c_example] > 0)
    c_colour = _colours(data, examples.view, examples.input_offset, c_example, c_cell, c_visible)
    c_coordinates = _coordinates(data, examples, c_example, c_cell, examples.input_height, examples.input_width)
    c_position = torch.stack([*c_coordinates, torch.ones_like(c_row)], -1) * ~is_prefix[:, None]

    t_row = torch.arange(budget.target, device=device)
    # Zero-length sequences start where the next one does: right=True finds the last of them, which has the row.
    t_example = torch.searchsorted(target_start, t_row, right=True) - 1
    t_cell = t_row - target_start[t_example]
    t_real = examples.real[t_example] > 0
    t_visible = t_real & (examples.output_offset[t_example] >= 0)
    t_colour = _colours(data, examples.view, examples.output_offset, t_example, t_cell, t_visible)
    t_coordinates = _coordinates(data, examples, t_example, t_cell, examples.output_height, examples.output_width)
    t_position = torch.stack([*t_coordinates, torch.full_like(t_row, 2)], -1)

    start = context_start + target_start
    return Packed(
        examples=examples,
        view_tokens=data.view_tokens[examples.view],
        view_swaps=data.view_geometry[0, examples.view] == 1,
        context_example=c_example,
        context_colour=c_colour,
        context_position=c_position.to(torch.float32),
        prefix_rows=(context_start[:, None] + torch.arange(prefix, device=device)).flatten(),
        context_prefix=torch.where(is_prefix, c_example * prefix + c_local, -1),
        target_example=t_example,
        target_cell=t_cell,
        target_colour=t_colour,
        target_position=t_position.to(torch.float32),
        target_real=t_real,
        context_segments=make_segments(context_length, context_length, longest[0], longest[0], target_length),
        size_segments=make_segments(torch.ones_like(context_length), context_length, 1, longest[0], target_length),
        target_segments=make_segments(target_length, context_length + target_length, longest[1], sum(longest)),
        context_slots=start[c_example] + c_local,
        target_slots=start[t_example] + context_length[t_example] + t_cell,
    )


def _colours(data: DeviceData, view: Tensor, offset: Tensor, example: Tensor, cell: Tensor, visible: Tensor) -> Tensor:
    """Colour of each row's cell under its view, HIDDEN where not `visible`: int64 (N,); `view`, `offset` (S,)."""
    index = torch.where(visible, offset[example] + cell, 0)
    colour = data.cells[index].to(torch.int64)
    return torch.where(visible, data.view_colours[view[example], colour], HIDDEN)


def _coordinates(
    data: DeviceData, examples: Examples, example: Tensor, cell: Tensor, height: Tensor, width: Tensor
) -> tuple[Tensor, Tensor]:
    """Row and column of each cell in the frame of its sequence's view, int64 (N,) each."""
    swap, flip_rows, flip_columns = data.view_geometry[:, examples.view[example]]
    h, w = height[example], width[example].clamp(min=1)
    r, c = cell // w, cell % w
    row, column = torch.where(swap == 1, c, r), torch.where(swap == 1, r, c)
    rows, columns = torch.where(swap == 1, w, h), torch.where(swap == 1, h, w)
    return torch.where(flip_rows == 1, rows - 1 - row, row), torch.where(
        flip_columns == 1, columns - 1 - column, column
    )
