"""Attention within packed segments: one small interface, the machine's best kernel behind it.

Rows of all sequences lie back to back. Segment s of the queries attends to segment s of the keys and to nothing else.
On CUDA a variable-length kernel takes the rows as they are (`flash`); elsewhere sequences of like length are padded
into buckets for scaled-dot-product attention. `reference` is the plain definition both are tested against.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.ops.compilation import region


class Segments(NamedTuple):
    """Who attends to whom. Starts are int32 (segments + 1,), from 0 to the number of rows."""

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    gaps: tuple[Tensor, Tensor, Tensor] | None
    """Where key rows are skipped: starts of queries and keys without the segments that have no queries, and how many
    keys each has, int32, for kernels that can leave rows out."""
    buckets: "Buckets | None"
    """Padding plan, only where no variable-length kernel runs."""


class Buckets(NamedTuple):
    """Padded copies of packed rows: bucket b has `shapes[b]` = (sequences, query rows, key rows)."""

    shapes: tuple[tuple[int, int, int], ...]
    pad_query: Tensor
    """int64 (padded query rows,): the packed row behind each padded row."""
    unpad_query: Tensor
    """int64 (query rows,): where each packed row went."""
    query_is_real: Tensor
    """bool (padded query rows,)."""
    pad_key: Tensor
    unpad_key: Tensor
    key_is_real: Tensor
    key_is_read: Tensor
    """bool (key rows,): False where the segment has no queries."""


def segments(
    query_lengths: Tensor, key_lengths: Tensor, longest_query: int, longest_key: int, skipped: Tensor | None = None
) -> Segments:
    """Segments of these lengths, int64 (segments,); the longest are upper bounds known to the host.

    `skipped` int64 (segments,) key rows after each segment's belong to nobody: to segments of their own, without
    queries.
    """
    gaps = None
    if skipped is not None:
        lengths = key_lengths.to(torch.int32)
        gaps = _starts(query_lengths), _starts(key_lengths + skipped), lengths
        query_lengths = torch.stack([query_lengths, torch.zeros_like(query_lengths)], 1).flatten()
        key_lengths = torch.stack([key_lengths, skipped], 1).flatten()
    buckets = None if query_lengths.device.type == "cuda" else _buckets(query_lengths, key_lengths)
    return Segments(_starts(query_lengths), _starts(key_lengths), longest_query, longest_key, gaps, buckets)


@region
def _starts(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths, (1, 0)).cumsum(0).to(torch.int32)  # In this order it is one kernel.


def attention(query: Tensor, key: Tensor, value: Tensor, who: Segments) -> Tensor:
    """Softmax attention within segments: (rows, heads, head width) each; the queries' rows come back."""
    if who.buckets is not None:
        return _bucketed(query, key, value, who.buckets)
    from model.ops.flash import flash

    return flash(query, key, value, who)


def reference(query: Tensor, key: Tensor, value: Tensor, who: Segments) -> Tensor:
    """The same by a mask over all pairs of rows: slow and plain, for tests."""
    q_segment = torch.bucketize(torch.arange(len(query)), who.query_starts.long(), right=True)
    k_segment = torch.bucketize(torch.arange(len(key)), who.key_starts.long(), right=True)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(q_segment[:, None] != k_segment[None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


class _TakeRows(torch.autograd.Function):
    """x[index], where every row of x is wanted at exactly one place: its gradient is a gather, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, real: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, real)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, real = ctx.saved_tensors
        result = gradient.index_select(0, inverse)
        if real is not None:
            result = result * real.view(-1, *[1] * (result.dim() - 1))
        return result, None, None, None


def take_rows(x: Tensor, index: Tensor, inverse: Tensor, real: Tensor | None = None) -> Tensor:
    """x[index] for x (n, ...), int64 index (m,), with the gradient taken as gradient[inverse] * real.

    `inverse` int64 (n,) is the place of the result at which row i of x is used; `real` bool (n,) is False for rows
    that are used nowhere. Other places that repeat a row must not reach the loss.
    """
    return _TakeRows.apply(x, index, inverse, real)  # type: ignore[no-any-return, no-untyped-call]


def _buckets(query_lengths: Tensor, key_lengths: Tensor) -> Buckets:
    """Sequences sorted by length, cut wherever the next is more than 1.5 times (and 16 rows) its bucket's first."""
    queries, keys = query_lengths.numpy(), key_lengths.numpy()
    order = np.argsort(keys, kind="stable")
    order = order[queries[order] > 0]
    cuts, limit = [], -1.0
    for i, length in enumerate(keys[order].tolist()):
        if length > limit:
            cuts.append(i)
            limit = 1.5 * length + 16
    spans = [order[a:b] for a, b in itertools.pairwise([*cuts, len(order)])]
    shapes = tuple((len(which), int(queries[which].max()), int(keys[which].max())) for which in spans)
    pad_q, unpad_q, real_q, _ = _padding(queries, spans, [q for _, q, _ in shapes])
    pad_k, unpad_k, real_k, read = _padding(keys, spans, [k for _, _, k in shapes])
    return Buckets(shapes, *map(torch.from_numpy, (pad_q, unpad_q, real_q, pad_k, unpad_k, real_k, read)))


def _padding(
    lengths: NDArray[np.int64], spans: list[NDArray[np.int64]], widths: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The packed row behind each padded one, where each packed row went, and which of either are real."""
    starts = lengths.cumsum() - lengths
    pad, real = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for which, width in zip(spans, widths, strict=True):
        local = np.arange(width)
        inside = local < lengths[which, None]
        pad.append(np.where(inside, starts[which, None] + local, 0).ravel())
        real.append(inside.ravel())
    pad_rows, is_real = np.concatenate(pad), np.concatenate(real)
    unpad, read = np.zeros(int(lengths.sum()), np.int64), np.zeros(int(lengths.sum()), np.bool_)
    (places,) = np.nonzero(is_real)
    unpad[pad_rows[places]] = places
    read[pad_rows[places]] = True
    return pad_rows, unpad, is_real, read


def _bucketed(query: Tensor, key: Tensor, value: Tensor, plan: Buckets) -> Tensor:
    query = take_rows(query, plan.pad_query, plan.unpad_query)
    key = take_rows(key, plan.pad_key, plan.unpad_key, plan.key_is_read)
    value = take_rows(value, plan.pad_key, plan.unpad_key, plan.key_is_read)
    results, q_at, k_at = [], 0, 0
    for count, q_rows, k_rows in plan.shapes:
        q_end, k_end = q_at + count * q_rows, k_at + count * k_rows
        result = scaled_dot_product_attention(
            _split(query[q_at:q_end], count),
            _split(key[k_at:k_end], count),
            _split(value[k_at:k_end], count),
            attn_mask=plan.key_is_real[k_at:k_end].view(count, 1, 1, k_rows),
        )
        results.append(result.transpose(1, 2).reshape(count * q_rows, *query.shape[1:]))
        q_at, k_at = q_end, k_end
    return take_rows(torch.cat(results), plan.unpad_query, plan.pad_query, plan.query_is_real)


def _split(rows: Tensor, count: int) -> Tensor:
    """(count * length, heads, width) -> (count, heads, length, width)."""
    return rows.view(count, -1, *rows.shape[1:]).transpose(1, 2)
