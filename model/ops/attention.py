"""Attention within the segments of packed sequences, by the fastest kernel of the device.

The rows of all sequences are concatenated; segment s of the queries attends to segment s of the keys only. On CUDA a
variable-length kernel reads the rows in place (`flash`); elsewhere sequences of similar length are padded into buckets
for scaled-dot-product attention. tests/support/masked_attention.py is the definition that both are tested against.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.ops.segments import Buckets, Segments


def attention(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """Softmax attention within segments with H heads of width W: query (Q, H, W); key, value (K, H, W) -> (Q, H, W)."""
    if segments.buckets is not None:
        return _bucketed(query, key, value, segments.buckets)
    from model.ops.flash import flash

    return flash(query, key, value, segments)


class _TakeRows(torch.autograd.Function):
    """x[index] where each row of x is used at most once, so that the gradient is a gather instead of a scatter-add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, used: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, used)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, used = ctx.saved_tensors
        result = gradient.index_select(0, inverse)
        if used is not None:
            result = result * used.view(-1, *[1] * (result.dim() - 1))
        return result, None, None, None


def take_rows(x: Tensor, index: Tensor, inverse: Tensor, used: Tensor | None = None) -> Tensor:
    """x[index] for x (n, ...) and index int64 (m,), with gradient[inverse] * used as its gradient.

    `inverse` int64 (n,) is the row of the result that uses row i of x; `used` bool (n,) is False for rows that no row
    uses, None if there are none. Where the result repeats a row elsewhere, that copy must not reach the loss.
    """
    return _TakeRows.apply(x, index, inverse, used)  # type: ignore[no-any-return, no-untyped-call]


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
