"""Attention of one query a segment, as the size token asks, on a GPU: Triton programs for parts of every segment.

The flash kernels work on 128 queries at once, whether they are there or not (RESULTS.md). A long segment is shared by
several programs a head, whose softmaxes are put together afterwards: one alone would keep all others waiting.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.segments import Segments

_ROWS = 32
"""Keys read at once."""
_PART = 256
"""Keys for which another program is worth it."""
_MOST_PARTS = 4


@triton.jit
def _forward(
    query, keys, values, means, mosts, totals, query_starts, key_starts, key_lengths, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    own, first, length, column, inside = _segment(query_starts, key_starts, key_lengths, HEADS, WIDTH, COLUMNS)
    start, end = _part(length, ROWS, PARTS)
    if own >= 0:
        q = tl.load(query + own * WIDTH + column, inside, 0).to(tl.float32) * scale
        # Each lane of rows has a softmax of its own until the end, so that none waits for another one.
        most, total = tl.full([ROWS], -1e30, tl.float32), tl.zeros([ROWS], tl.float32)
        mean = tl.zeros([ROWS, COLUMNS], tl.float32)
        for row in tl.range(start, end, ROWS, num_stages=4):
            at, real = _keys(first, row, end, column, HEADS, WIDTH, ROWS)
            k = tl.load(keys + at, real[:, None] & inside[None, :], 0).to(tl.float32)
            v = tl.load(values + at, real[:, None] & inside[None, :], 0).to(tl.float32)
            score = tl.where(real, tl.sum(k * q[None, :], 1), -1e30)
            larger = tl.maximum(most, score)
            chance, before = tl.where(real, tl.exp(score - larger), 0), tl.exp(most - larger)
            total = total * before + chance
            mean = mean * before[:, None] + chance[:, None] * v
            most = larger
        largest = tl.max(most, 0)
        share = tl.exp(most - largest)
        part = own * PARTS + tl.program_id(2)
        tl.store(means + part * WIDTH + column, tl.sum(mean * share[:, None], 0), inside)
        tl.store(mosts + part, largest)
        tl.store(totals + part, tl.sum(total * share, 0))


@triton.jit
def _together(
    means, mosts, totals, result, log_sums, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """The softmax over all parts of a query and head."""
    own, column = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    part = own * PARTS + tl.arange(0, PARTS)
    most = tl.load(mosts + part)
    largest = tl.max(most, 0)
    share = tl.exp(most - largest)
    sum_ = tl.sum(tl.load(totals + part) * share, 0)
    mean = tl.load(means + part[:, None] * WIDTH + column[None, :], (column < WIDTH)[None, :], 0)
    tl.store(result + own * WIDTH + column, tl.sum(mean * share[:, None], 0) / sum_, column < WIDTH)
    tl.store(log_sums + own, largest + tl.log(sum_))


@triton.jit
def _backward(
    query, keys, values, result, log_sums, gradient, to_query, to_keys, to_values,
    query_starts, key_starts, key_lengths, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    own, first, length, column, inside = _segment(query_starts, key_starts, key_lengths, HEADS, WIDTH, COLUMNS)
    start, end = _part(length, ROWS, PARTS)
    if own >= 0:
        q = tl.load(query + own * WIDTH + column, inside, 0).to(tl.float32)
        g = tl.load(gradient + own * WIDTH + column, inside, 0).to(tl.float32)
        along = tl.sum(g * tl.load(result + own * WIDTH + column, inside, 0).to(tl.float32), 0)
        log_sum, total = tl.load(log_sums + own), tl.zeros([ROWS, COLUMNS], tl.float32)
        for row in tl.range(start, end, ROWS, num_stages=4):
            at, real = _keys(first, row, end, column, HEADS, WIDTH, ROWS)
            there = real[:, None] & inside[None, :]
            k = tl.load(keys + at, there, 0).to(tl.float32)
            v = tl.load(values + at, there, 0).to(tl.float32)
            chance = tl.where(real, tl.exp(tl.sum(k * q[None, :], 1) * scale - log_sum), 0)
            change = chance * (tl.sum(v * g[None, :], 1) - along) * scale
            tl.store(to_values + at, chance[:, None] * g[None, :], there)
            tl.store(to_keys + at, change[:, None] * q[None, :], there)
            total += change[:, None] * k
        tl.store(to_query + (own * PARTS + tl.program_id(2)) * WIDTH + column, tl.sum(total, 0), inside)


@triton.jit
def _segment(
    query_starts, key_starts, key_lengths, HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """This program's query and head (-1 without a query), first key, number of keys, columns and which are real."""
    segment, head = tl.program_id(0), tl.program_id(1)
    row, column = tl.load(query_starts + segment), tl.arange(0, COLUMNS)
    own = tl.where(tl.load(query_starts + segment + 1) > row, row.to(tl.int64) * HEADS + head, -1)
    first = tl.load(key_starts + segment).to(tl.int64) * HEADS + head
    return own, first, tl.load(key_lengths + segment), column, column < WIDTH


@triton.jit
def _part(length, ROWS: tl.constexpr, PARTS: tl.constexpr):
    """First and one past the last of this program's keys."""
    rows = tl.cdiv(tl.cdiv(length, PARTS), ROWS) * ROWS
    start = tl.minimum(tl.program_id(2) * rows, length)
    return start, tl.minimum(start + rows, length)


@triton.jit
def _keys(first, start, end, column, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Where the next keys lie, and which of them are real."""
    row = start + tl.arange(0, ROWS)
    return (first + row * HEADS)[:, None] * WIDTH + column[None, :], row < end


class SingleQuery(torch.autograd.Function):
    """See `attention.attention`, for segments of one query or none; gradients of keys of no segment are no number."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, who: Segments) -> Tensor:
        """Two kernels."""
        query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
        ctx.parts = min(_MOST_PARTS, triton.next_power_of_2(triton.cdiv(who.longest_key, _PART)))
        shape, width = (*query.shape[:2], ctx.parts), query.shape[2]
        means, mosts, totals = (query.new_empty(s, dtype=torch.float32) for s in ((*shape, width), shape, shape))
        result, log_sums = torch.empty_like(query), query.new_empty(shape[:2], dtype=torch.float32)
        query_starts, key_starts, lengths = who.gaps or (who.query_starts, who.key_starts, who.key_starts.diff())
        ctx.save_for_backward(query, keys, values, result, log_sums, query_starts, key_starts, lengths)
        _launch(_forward, ctx.parts, query, keys, values, means, mosts, totals, query_starts, key_starts, lengths)
        _together[(log_sums.numel(),)](
            means, mosts, totals, result, log_sums,
            WIDTH=width, COLUMNS=triton.next_power_of_2(width), PARTS=ctx.parts,
        )  # fmt: skip
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """One kernel, and a sum over the parts."""
        query, keys, values, result, log_sums, *who = ctx.saved_tensors
        to_query = query.new_empty(*query.shape[:2], ctx.parts, query.shape[2], dtype=torch.float32)
        to_keys, to_values = torch.empty_like(keys), torch.empty_like(values)
        to = to_query, to_keys, to_values
        _launch(_backward, ctx.parts, query, keys, values, result, log_sums, gradient.contiguous(), *to, *who)
        return to_query.sum(2).to(query.dtype), to_keys, to_values, None


def _launch(kernel: Any, parts: int, query: Tensor, *arguments: Tensor) -> None:
    _, heads, width = query.shape
    kernel[(len(arguments[-1]), heads, parts)](
        query, *arguments, width**-0.5,
        HEADS=heads, WIDTH=width, COLUMNS=triton.next_power_of_2(width), ROWS=_ROWS, PARTS=parts, num_warps=8,
    )  # fmt: skip
