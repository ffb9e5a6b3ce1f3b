"""Attention within packed segments: one small interface, the machine's best kernel behind it.

Rows of all sequences lie back to back. Segment s of the queries attends to segment s of the keys and to nothing else.
On CUDA a variable-length kernel takes the rows as they are (`flash`); elsewhere sequences of like length are padded
into buckets for scaled-dot-product attention. `reference` is the plain definition both are tested against.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.ops.segments import Buckets, Segments


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
