"""The row-wise parts of the transformer: embeddings, residual connections with pre-norm projections, output heads.

Each function is compiled as a whole and spans from the output of one sublayer to the input projection of the next, so
that residual sum, dropout and norm are one kernel, and their gradients another.

Dimensions: N rows, S sequences, P prefix rows of a sequence, C context rows, T target rows, D width, F feed-forward
width. `drop` is the rate and the seed of the dropout on what is added to the residual stream.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.ops.attention import take_rows
from model.ops.compilation import maybe_compile
from model.ops.dropout import Drop, dropout
from model.ops.norm import rms_norm
from model.puzzles.grids import COLOURS, HIDDEN, LARGEST_SIDE

COLUMNS = 16
"""Classes of a cell: ten colours, HIDDEN, and unused ones, since tensor cores need multiples of 8."""
TIME_FEATURES = 64
"""Sines and cosines of the time input."""


@maybe_compile
def residual_then_project(
    x: Tensor, sublayer_output: Tensor, output_weight: Tensor, next_weight: Tensor, drop: Drop
) -> tuple[Tensor, Tensor]:
    """Add a sublayer to the residual stream x (N, D), then normalise and project for the next sublayer.

    `sublayer_output` (N, K) is projected by `output_weight` (D, K). Returns the residual stream (N, D) and the
    projection of its normalised rows by `next_weight` (M, D): (N, M).
    """
    x = _add_residual(x, sublayer_output, output_weight, drop)
    return x, _norm_then_project(x, next_weight)


@maybe_compile
def colour_logits(x: Tensor, sublayer_output: Tensor, output_weight: Tensor, head_weight: Tensor, drop: Drop) -> Tensor:
    """Logits of the ten colours after the last sublayer, float32 (T, 10); arguments as in `residual_then_project`."""
    return logits_of(_add_residual(x, sublayer_output, output_weight, drop), head_weight)


@maybe_compile
def logits_of(x: Tensor, head_weight: Tensor) -> Tensor:
    """Logits of the ten colours, float32 (T, 10), from the residual stream x (T, D); `head_weight` (16, D)."""
    return _norm_then_project(x, head_weight)[:, :COLOURS].float()


@maybe_compile
def size_logits(
    x: Tensor,
    sublayer_output: Tensor,
    output_weight: Tensor,
    drop: Drop,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
) -> Tensor:
    """Logits of height and width of the output grids, (S, 2, 30), by an MLP with one hidden layer on the size tokens.

    Residual arguments as in `residual_then_project`, with S size tokens as rows.
    """
    x = rms_norm(_add_residual(x, sublayer_output, output_weight, drop))
    hidden = functional.silu(functional.linear(x, hidden_weight, hidden_bias))
    return functional.linear(hidden, head_weight, head_bias).view(-1, 2, LARGEST_SIDE)


@maybe_compile
def embed_targets(
    colours: Tensor,
    time: Tensor,
    conditioned: Tensor | None,
    gain: Tensor | None,
    table: Tensor,
    time_weight: Tensor,
    next_weight: Tensor,
    added: tuple[Tensor, Tensor] | None,
    drop: Drop,
) -> tuple[Tensor, Tensor]:
    """Embed noisy output cells, and project for the first sublayer: the residual stream (T, D) and (T, M).

    `colours` int64 (T,), `time` (T,) or (1,); `conditioned` (T, D) are the projected self-conditioning features, scaled
    by `gain` (T,) or (1,), both None for none; `table` (16, D) from `embedding_table`, `time_weight` (D, 64),
    `next_weight` (M, D); `added` as in `embed_contexts`.
    """
    # Sum in float32: in bfloat16 the compiler would write the embeddings out first and add the product to them.
    exact = torch.promote_types(next_weight.dtype, torch.float32)
    x = dropout(_embed(colours, table), *drop).to(exact) + _embed_time(time, time_weight).to(exact)
    if conditioned is not None and gain is not None:
        x = x + gain[:, None] * conditioned
    if added is not None:
        x = x + _repeat(*added)
    x = x.to(next_weight.dtype)  # Otherwise all layers would run in float32.
    return x, _norm_then_project(x, next_weight)


@maybe_compile
def embed_tasks(
    task: Tensor, view_tokens: Tensor | None, task_table: Tensor, conditioning_table: Tensor, width: int
) -> Tensor:
    """Embed the task, in k rows, and the conditioning tokens of the view: (S, k + tokens, D).

    `task` int64 (S,), `view_tokens` int64 (S, tokens) or None for none, `task_table` (tasks, k D).
    """
    tasks = functional.embedding(task, task_table).view(len(task), -1, width)
    if view_tokens is None:
        return tasks
    return torch.cat([tasks, functional.embedding(view_tokens, conditioning_table)], 1)


@maybe_compile
def join_prefixes(embedded: Tensor | None, size_token: Tensor, sequences: int) -> Tensor:
    """The rows before the input cells: (S * P, D) of `embedded` (S, P - 1, D), if there are any, and the size token."""
    size_tokens = size_token.expand(sequences, 1, -1)
    return (size_tokens if embedded is None else torch.cat([embedded, size_tokens], 1)).flatten(0, 1)


@maybe_compile
def embed_contexts(
    colours: Tensor,
    hide_input: Tensor | None,
    example: Tensor,
    prefixes: Tensor,
    context_prefix: Tensor,
    prefix_rows: Tensor,
    table: Tensor,
    next_weight: Tensor,
    added: tuple[Tensor, Tensor] | None,
    drop: Drop,
) -> tuple[Tensor, Tensor]:
    """Embed input cells, insert the prefixes, and project for the first sublayer: residual stream (C, D) and (C, M).

    `colours` int64 (C,); cells of sequences with `hide_input` bool (S,) are embedded as HIDDEN, where `example` int64
    (C,) is the sequence of each row. `prefixes` (S * P, D) from `join_prefixes` replace the rows that `context_prefix`
    and `prefix_rows` of `Packed` name. `table` (16, D) from `embedding_table`, `next_weight` (M, D). `added` are a
    vector for each sequence (S, D), which is added to all its rows, and the sequence of each row, int64 (C,); or None.
    """
    shown = colours if hide_input is None else torch.where(hide_input[example], HIDDEN, colours)
    cells = dropout(_embed(shown, table), *drop)
    inserted = take_rows(prefixes, context_prefix.clamp(min=0), prefix_rows)
    x = torch.where((context_prefix >= 0)[:, None], inserted.to(cells.dtype), cells)
    if added is not None:
        x = x + _repeat(*added)
    return x, _norm_then_project(x, next_weight)


@maybe_compile
def size_tokens(
    x: Tensor, query: Tensor, context_prefix: Tensor, prefix_rows: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Select the size token, the last row of each prefix of `length` rows, from x (C, D) and from the query (C, H, W).

    Returns (S, D) and (S, H, W).
    """
    size_row = prefix_rows.view(-1, length)[:, -1]
    sequence = context_prefix.clamp(min=0) // length
    is_size_token = (context_prefix >= 0) & (context_prefix % length == length - 1)
    return take_rows(x, size_row, sequence, is_size_token), take_rows(query, size_row, sequence, is_size_token)


@maybe_compile
def embedding_table(weight: Tensor) -> Tensor:
    """The weight (D, 16) of a linear layer on one-hot colours as an embedding table (16, D), contiguous.

    A separate function, since fused into its readers the transpose would be read with strides.
    """
    return weight.T.contiguous()


class _Embedding(torch.autograd.Function):
    """Embedding by a table (16, D) whose gradient is a product with one-hot rows; torch's adds row by row."""

    @staticmethod
    def forward(ctx: Any, colours: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(colours)
        return functional.embedding(colours, table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (colours,) = ctx.saved_tensors
        return None, functional.one_hot(colours, COLUMNS).to(gradient.dtype).T @ gradient


class _Repeat(torch.autograd.Function):
    """Rows of `vectors` (S, D) by `sequence` (N,), whose gradient is a product with one-hot rows, as `_Embedding`'s."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, sequence: Tensor) -> Tensor:
        ctx.save_for_backward(sequence)
        ctx.sequences = len(vectors)
        return vectors[sequence]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (sequence,) = ctx.saved_tensors
        one_hot = torch.arange(ctx.sequences, device=sequence.device)[:, None] == sequence
        return one_hot.to(gradient.dtype) @ gradient, None


def _repeat(vectors: Tensor, sequence: Tensor) -> Tensor:
    return _Repeat.apply(vectors, sequence)  # type: ignore[no-any-return, no-untyped-call]


def _embed(colours: Tensor, table: Tensor) -> Tensor:
    return _Embedding.apply(colours, table)  # type: ignore[no-any-return, no-untyped-call]


def _embed_time(time: Tensor, weight: Tensor) -> Tensor:
    """Sinusoidal features of (T,), projected to (T, D); wavelengths 1/2 to about 500 suit a log-SNR of -4 to 8."""
    octaves = torch.arange(TIME_FEATURES // 2, device=time.device) * (math.log(1000) / (TIME_FEATURES // 2 - 1))
    angle = time[:, None] * (4 * math.pi * torch.exp(-octaves))
    return functional.linear(torch.cat([angle.sin(), angle.cos()], -1), weight)


def _add_residual(x: Tensor, sublayer_output: Tensor, output_weight: Tensor, drop: Drop) -> Tensor:
    if drop[1] is None or drop[0] == 0:
        if not x.is_cuda:
            return torch.addmm(x, sublayer_output, output_weight.T)
        # On a GPU addmm copies x first. In float32, or the compiler would make addmm of the sum.
        added = functional.linear(sublayer_output, output_weight)
        return (x.float() + added.float()).to(x.dtype)
    return x + dropout(functional.linear(sublayer_output, output_weight), *drop)


def _norm_then_project(x: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(rms_norm(x), weight)
