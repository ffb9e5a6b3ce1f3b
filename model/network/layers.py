"""What the network does to every row by itself, between one attention and the next.

Each function is one compiled region that reaches from one sublayer into the next, so that sum, dropout and norm are
one kernel, and their gradients another.

Suffixes: N rows, S sequences, P prefix rows, T target rows, D width, F width of the feed-forward.
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
"""Ten colours, hidden, and spare ones: the matrix units want multiples of 8."""
TIME_FEATURES = 64


@maybe_compile
def residual_then_project(x: Tensor, found: Tensor, out: Tensor, into: Tensor, drop: Drop) -> tuple[Tensor, Tensor]:
    """The residual rows after a sublayer, and what the next one reads of them."""
    x = _added(x, found, out, drop)
    return x, _read(x, into)


@maybe_compile
def logits(x: Tensor, found: Tensor, out: Tensor, into: Tensor, drop: Drop) -> Tensor:
    """Of the ten colours, float32 (T, 10)."""
    return _read(_added(x, found, out, drop), into)[:, :COLOURS].float()


@maybe_compile
def sizes(
    x: Tensor, found: Tensor, out: Tensor, drop: Drop, into: Tensor, bias: Tensor, then: Tensor, then_bias: Tensor
) -> Tensor:
    """Logits of height and width, (S, 2, 30), through a hidden layer."""
    hidden = functional.silu(functional.linear(rms_norm(_added(x, found, out, drop)), into, bias))
    return functional.linear(hidden, then, then_bias).view(-1, 2, LARGEST_SIDE)


@maybe_compile
def targets(
    colours: Tensor,
    time: Tensor,
    told: Tensor | None,
    gain: Tensor | None,
    cells: Tensor,
    time_weight: Tensor,
    into: Tensor,
    drop: Drop,
) -> tuple[Tensor, Tensor]:
    """Embedded output cells, and what the first layer reads of them.

    `cells` is their `table`; other arguments as in `Denoiser.denoise`.
    """
    # Not added in bfloat16, or the compiler writes out the cells first, for the product to be added to them.
    exact = torch.promote_types(into.dtype, torch.float32)
    x = dropout(_looked_up(colours, cells), *drop).to(exact) + _time(time, time_weight).to(exact)
    if told is not None and gain is not None:
        x = x + gain[:, None] * told
    x = x.to(into.dtype)  # Else all layers would run in float32.
    return x, _read(x, into)


@maybe_compile
def prefix(task: Tensor, views: Tensor | None, tasks: Tensor, conditioning: Tensor, size_token: Tensor) -> Tensor:
    """What stands before the input cells, (S * P, D)."""
    parts = [functional.embedding(task, tasks)[:, None]]
    if views is not None:
        parts.append(functional.embedding(views, conditioning))
    return torch.cat([*parts, size_token.expand(len(task), 1, -1)], 1).flatten(0, 1)


@maybe_compile
def contexts(
    colours: Tensor,
    hidden: Tensor | None,
    example: Tensor,
    held: Tensor,
    context_prefix: Tensor,
    prefix_rows: Tensor,
    table: Tensor,
    into: Tensor,
    drop: Drop,
) -> tuple[Tensor, Tensor]:
    """Embedded input cells with the prefixes in their places, and what the first layer reads of them.

    The cells of examples, int64 (N,), that are `hidden`, bool (S,), show no colour.
    """
    shown = colours if hidden is None else torch.where(hidden[example], HIDDEN, colours)
    cells = dropout(_looked_up(shown, table), *drop)
    placed = take_rows(held, context_prefix.clamp(min=0), prefix_rows)
    x = torch.where((context_prefix >= 0)[:, None], placed.to(cells.dtype), cells)
    return x, _read(x, into)


@maybe_compile
def size_tokens(
    x: Tensor, query: Tensor, context_prefix: Tensor, prefix_rows: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """The rows of x (N, D) and of the queries (N, H, D / H) that end each prefix of `length` rows, (S, ...) each."""
    own = prefix_rows.view(-1, length)[:, -1]
    sequence = context_prefix.clamp(min=0) // length
    real = (context_prefix >= 0) & (context_prefix % length == length - 1)
    return take_rows(x, own, sequence, real), take_rows(query, own, sequence, real)


@maybe_compile
def table(weight: Tensor) -> Tensor:
    """Rows to look colours up in, (COLUMNS, D); a kernel of its own, so that others read what lies in a row."""
    return weight.T.contiguous()


class _LookUp(torch.autograd.Function):
    """Rows of a table (COLUMNS, D); its gradient is a product with one-hot rows, where torch's adds up row by row."""

    @staticmethod
    def forward(ctx: Any, colours: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(colours)
        return functional.embedding(colours, table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (colours,) = ctx.saved_tensors
        return None, functional.one_hot(colours, COLUMNS).to(gradient.dtype).T @ gradient


def _looked_up(colours: Tensor, table: Tensor) -> Tensor:
    return _LookUp.apply(colours, table)  # type: ignore[no-any-return, no-untyped-call]


def _time(time: Tensor, weight: Tensor) -> Tensor:
    """(T,) -> (T, D) through sine and cosine at wavelengths from 1/2 to about 500, fit for a log-SNR of -4 to 8."""
    octaves = torch.arange(TIME_FEATURES // 2, device=time.device) * (math.log(1000) / (TIME_FEATURES // 2 - 1))
    angle = time[:, None] * (4 * math.pi * torch.exp(-octaves))
    return functional.linear(torch.cat([angle.sin(), angle.cos()], -1), weight)


def _added(x: Tensor, found: Tensor, out: Tensor, drop: Drop) -> Tensor:
    """The residual rows (N, D) with what a sublayer found."""
    if drop[1] is None or drop[0] == 0:
        return torch.addmm(x, found, out.T)  # The product adds x by the way.
    return x + dropout(functional.linear(found, out), *drop)


def _read(x: Tensor, into: Tensor) -> Tensor:
    return functional.linear(rms_norm(x), into)
