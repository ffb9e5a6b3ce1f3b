"""Attention with one query in each segment, as for the size token, on a GPU.

The flash kernels compute tiles of 128 queries, however few there are (docs/log.md). Here the keys of a long segment are
split over several Triton programs for each head (split-K), and their partial softmaxes are merged by a second kernel:
a single program would be the last to finish.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.segments import Segments

_ROWS = 32
"""Keys of one iteration."""
_PART = 256
"""Keys for which another program pays off."""
_MAX_PARTS = 4


@triton.jit
def _forward(
    query, keys, values, means, maxima, totals, query_starts, key_starts, key_lengths, scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    own, first, length, column, inside = _segment(query_starts, key_starts, key_lengths, HEADS, WIDTH, COLUMNS)
    start, end = _part(length, ROWS, PARTS)
    if own >= 0:
        q = tl.load(query + own * WIDTH + column, inside, 0).to(tl.float32) * scale
        # Each lane keeps a running softmax of its own until the end, which avoids a reduction in every iteration.
        maximum, total = tl.full([ROWS], -1e30, tl.float32), tl.zeros([ROWS], tl.float32)
        mean = tl.zeros([ROWS, COLUMNS], tl.float32)
        for row in tl.range(start, end, ROWS, num_stages=4):
            at, real = _keys(first, row, end, column, HEADS, WIDTH, ROWS)
            k = tl.load(keys + at, real[:, None] & inside[None, :], 0).to(tl.float32)
            v = tl.load(values + at, real[:, None] & inside[None, :], 0).to(tl.float32)
            score = tl.where(real, tl.sum(k * q[None, :], 1), -1e30)
            larger = tl.maximum(maximum, score)
            probability, rescale = tl.where(real, tl.exp(score - larger), 0), tl.exp(maximum - larger)
            total = total * rescale + probability
            mean = mean * rescale[:, None] + probability[:, None] * v
            maximum = larger
        largest = tl.max(maximum, 0)
        weight = tl.exp(maximum - largest)
        part = own * PARTS + tl.program_id(2)
        tl.store(means + part * WIDTH + column, tl.sum(mean * weight[:, None], 0), inside)
        tl.store(maxima + part, largest)
        tl.store(totals + part, tl.sum(total * weight, 0))


@triton.jit
def _merge(
    means, maxima, totals, result, log_sums, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Merge the partial softmaxes of a query and head."""
    own, column = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    part = own * PARTS + tl.arange(0, PARTS)
    maximum = tl.load(maxima + part)
    largest = tl.max(maximum, 0)
    weight = tl.exp(maximum - largest)
    sum_ = tl.sum(tl.load(totals + part) * weight, 0)
    mean = tl.load(means + part[:, None] * WIDTH + column[None, :], (column < WIDTH)[None, :], 0)
    tl.store(result + own * WIDTH + column, tl.sum(mean * weight[:, None], 0) / sum_, column < WIDTH)
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
            probability = tl.where(real, tl.exp(tl.sum(k * q[None, :], 1) * scale - log_sum), 0)
            change = probability * (tl.sum(v * g[None, :], 1) - along) * scale
            tl.store(to_values + at, probability[:, None] * g[None, :], there)
            tl.store(to_keys + at, change[:, None] * q[None, :], there)
            total += change[:, None] * k
        tl.store(to_query + (own * PARTS + tl.program_id(2)) * WIDTH + column, tl.sum(total, 0), inside)


@triton.jit
def _segment(
    query_starts, key_starts, key_lengths, HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Index of this program's query and head, -1 without a query; first key, number of keys, columns and their mask."""
    segment, head = tl.program_id(0), tl.program_id(1)
    row, column = tl.load(query_starts + segment), tl.arange(0, COLUMNS)
    own = tl.where(tl.load(query_starts + segment + 1) > row, row.to(tl.int64) * HEADS + head, -1)
    first = tl.load(key_starts + segment).to(tl.int64) * HEADS + head
    return own, first, tl.load(key_lengths + segment), column, column < WIDTH


@triton.jit
def _part(length, ROWS: tl.constexpr, PARTS: tl.constexpr):
    """First key of this program and one past its last, within the segment."""
    rows = tl.cdiv(tl.cdiv(length, PARTS), ROWS) * ROWS
    start = tl.minimum(tl.program_id(2) * rows, length)
    return start, tl.minimum(start + rows, length)


@triton.jit
def _keys(first, start, end, column, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of the next keys, and the mask of those in bounds."""
    row = start + tl.arange(0, ROWS)
    return (first + row * HEADS)[:, None] * WIDTH + column[None, :], row < end


class SingleQuery(torch.autograd.Function):
    """As `attention.attention`, for segments of at most one query; keys without a query get uninitialised gradients."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, segments: Segments) -> Tensor:
        """In two kernels: partial softmaxes, and their merge."""
        query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
        ctx.parts = min(_MAX_PARTS, triton.next_power_of_2(triton.cdiv(segments.longest_key, _PART)))
        shape, width = (*query.shape[:2], ctx.parts), query.shape[2]
        means, maxima, totals = (query.new_empty(s, dtype=torch.float32) for s in ((*shape, width), shape, shape))
        result, log_sums = torch.empty_like(query), query.new_empty(shape[:2], dtype=torch.float32)
        all_keys = segments.query_starts, segments.key_starts, segments.key_starts.diff()
        query_starts, key_starts, lengths = segments.gaps or all_keys
        ctx.save_for_backward(query, keys, values, result, log_sums, query_starts, key_starts, lengths)
        _launch(_forward, ctx.parts, query, keys, values, means, maxima, totals, query_starts, key_starts, lengths)
        _merge[(log_sums.numel(),)](
            means, maxima, totals, result, log_sums,
            WIDTH=width, COLUMNS=triton.next_power_of_2(width), PARTS=ctx.parts,
        )  # fmt: skip
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """In one kernel, and a sum over the parts."""
        query, keys, values, result, log_sums, *starts = ctx.saved_tensors
        to_query = query.new_empty(*query.shape[:2], ctx.parts, query.shape[2], dtype=torch.float32)
        to_keys, to_values = torch.empty_like(keys), torch.empty_like(values)
        to = to_query, to_keys, to_values
        _launch(_backward, ctx.parts, query, keys, values, result, log_sums, gradient.contiguous(), *to, *starts)
        return to_query.sum(2).to(query.dtype), to_keys, to_values, None


def _launch(kernel: Any, parts: int, query: Tensor, *arguments: Tensor) -> None:
    _, heads, width = query.shape
    kernel[(len(arguments[-1]), heads, parts)](
        query, *arguments, width**-0.5,
        HEADS=heads, WIDTH=width, COLUMNS=triton.next_power_of_2(width), ROWS=_ROWS, PARTS=parts, num_warps=8,
    )  # fmt: skip
