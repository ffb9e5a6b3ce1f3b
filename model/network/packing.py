"""Packed batches: only the valid cells of many examples, back to back, in a constant budget of rows.

A row is one token. Each example has a context (conditioning tokens, a size token, its input cells) and a target (its
output cells). Cells are enumerated in the frame of the original grid; a view acts on their coordinates (D4) and
colours (look-up), so no grid is copied and a prediction comes back already un-augmented.

Suffixes: S sequences (examples and padding), C context rows, T target rows, P prefix rows of an example.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.network.device_data import Corpus
from model.ops.compilation import maybe_compile
from model.ops.segments import Segments, segments
from model.puzzles.grids import HIDDEN


class Examples(NamedTuple):
    """Which grids, under which view; int64 (S,) each. Offsets point into Corpus.cells; -1: no cells there."""

    task: Tensor
    view: Tensor
    input_offset: Tensor
    input_height: Tensor
    input_width: Tensor
    output_offset: Tensor
    output_height: Tensor
    output_width: Tensor
    real: Tensor
    """1, or 0 for a sequence that only fills the budget."""


class Budget(NamedTuple):
    """Static shape of a packed batch."""

    sequences: int
    context: int
    target: int
    longest_context: int
    longest_target: int
    """Bounds of one sequence, which the attention kernels need to know."""


class Packed(NamedTuple):
    """Rows of one batch with everything but the noise."""

    examples: Examples
    view_tokens: Tensor
    """int64 (S, conditioning tokens): rows of the network's conditioning table."""
    view_swaps: Tensor
    """bool (S,): the view swaps height and width."""
    context_example: Tensor
    """int64 (C,)."""
    context_colour: Tensor
    """int64 (C,): colour as the view shows it; HIDDEN at prefix rows and padding."""
    context_position: Tensor
    """float32 (C, 3): row, column, grid (0 prefix, 1 input, 2 output) in the view's frame."""
    prefix_rows: Tensor
    """int64 (S * P,): context rows that hold the prefixes."""
    context_prefix: Tensor
    """int64 (C,): which of the S * P prefixes a context row holds, -1 for none."""
    target_example: Tensor
    target_cell: Tensor
    """int64 (T,): index of the cell in its grid, row-major, original frame."""
    target_colour: Tensor
    """int64 (T,): clean colour as the view shows it; HIDDEN where unknown and at padding."""
    target_position: Tensor
    target_real: Tensor
    """bool (T,)."""
    context_segments: Segments
    size_segments: Segments
    """One query a sequence (its size token) against its context."""
    target_segments: Segments
    """Target rows against context and target of their sequence."""
    context_places: Tensor
    """int64 (C,): where context rows lie among all rows, sequence after sequence, each its context, then its target."""
    target_places: Tensor
    """int64 (T,)."""


def pad_to_budget(rows: list[tuple[int, ...]], prefix: int, budget: Budget | None) -> tuple[NDArray[np.int64], Budget]:
    """Examples as int64 (9, S) with padding sequences up to `budget`; None pads nothing.

    `rows` are Examples without `real`. Padding is cut into sequences no longer than the longest possible example, so
    that every row is written by the attention kernels, and into as few as can be, which cost those least.
    """
    table = np.array([(*row, 1) for row in rows], dtype=np.int64).reshape(-1, len(Examples._fields)).T
    context = int((table[3] * table[4] + prefix).sum())
    target = int((table[6] * table[7]).sum())
    if budget is None:
        longest = int((table[3] * table[4]).max()) + prefix, int((table[6] * table[7]).max())
        return table, Budget(table.shape[1], context, target, *longest)
    free = budget.sequences - table.shape[1]
    spare_context, spare_target = budget.context - context - prefix * free, budget.target - target
    if min(free, spare_context, spare_target) < 0:
        raise ValueError(f"{table.shape[1]} examples with {context} + {target} rows do not fit {budget}")
    filler = np.zeros((len(Examples._fields), free), dtype=np.int64)
    filler[2] = filler[5] = -1
    longest = budget.longest_context - prefix, budget.longest_target
    for height, width, spare, most in ((3, 4, spare_context, longest[0]), (6, 7, spare_target, longest[1])):
        if spare > free * most:
            # Rows beyond the longest are never written: whatever lies in that memory would reach the gradients.
            raise ValueError(f"{free} padding sequences cannot take {spare} rows of {budget}")
        filler[height] = 1
        filler[width] = (spare - most * np.arange(free)).clip(0, most)
    return np.concatenate([table, filler], axis=1), budget


@functools.partial(maybe_compile, static=True)
def pack(table: Tensor, corpus: Corpus, prefix: int, budget: Budget) -> Packed:
    """Lay out the rows of `pad_to_budget`'s table, int64 (9, S), on the device."""
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
    c_shown = ~is_prefix & (examples.real[c_example] > 0)
    c_colour = _colours(corpus, examples.view, examples.input_offset, c_example, c_cell, c_shown)
    c_place = _place(corpus, examples, c_example, c_cell, examples.input_height, examples.input_width)
    c_position = torch.stack([*c_place, torch.ones_like(c_row)], -1) * ~is_prefix[:, None]

    t_row = torch.arange(budget.target, device=device)
    # Zero-length sequences share their start with the next one: the last that starts at or before the row is meant.
    t_example = torch.searchsorted(target_start, t_row, right=True) - 1
    t_cell = t_row - target_start[t_example]
    t_real = examples.real[t_example] > 0
    t_shown = t_real & (examples.output_offset[t_example] >= 0)
    t_colour = _colours(corpus, examples.view, examples.output_offset, t_example, t_cell, t_shown)
    t_place = _place(corpus, examples, t_example, t_cell, examples.output_height, examples.output_width)
    t_position = torch.stack([*t_place, torch.full_like(t_row, 2)], -1)

    start = context_start + target_start
    return Packed(
        examples=examples,
        view_tokens=corpus.view_tokens[examples.view],
        view_swaps=corpus.view_geometry[0, examples.view] == 1,
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
        context_segments=segments(context_length, context_length, longest[0], longest[0], target_length),
        size_segments=segments(torch.ones_like(context_length), context_length, 1, longest[0], target_length),
        target_segments=segments(target_length, context_length + target_length, longest[1], sum(longest)),
        context_places=start[c_example] + c_local,
        target_places=start[t_example] + context_length[t_example] + t_cell,
    )


def _colours(corpus: Corpus, view: Tensor, offset: Tensor, example: Tensor, cell: Tensor, shown: Tensor) -> Tensor:
    index = torch.where(shown, offset[example] + cell, 0)
    colour = corpus.cells[index].to(torch.int64)
    return torch.where(shown, corpus.view_colours[view[example], colour], HIDDEN)


def _place(
    corpus: Corpus, examples: Examples, example: Tensor, cell: Tensor, height: Tensor, width: Tensor
) -> tuple[Tensor, Tensor]:
    """Row and column of each cell in the frame of its example's view."""
    swap, flip_rows, flip_columns = corpus.view_geometry[:, examples.view[example]]
    h, w = height[example], width[example].clamp(min=1)
    r, c = cell // w, cell % w
    row, column = torch.where(swap == 1, c, r), torch.where(swap == 1, r, c)
    rows, columns = torch.where(swap == 1, w, h), torch.where(swap == 1, h, w)
    return torch.where(flip_rows == 1, rows - 1 - row, row), torch.where(
        flip_columns == 1, columns - 1 - column, column
    )
