"""`model.ops.qkv` on a GPU: one Triton kernel normalises, rotates and scatters query, key and value rows.

It reads and writes each row once. torch.compile generates five kernels and two copies for the same work, which take
2.4 ms where this kernel takes 0.3 ms (docs/log.md). Dimensions as in `model.ops.qkv`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.norm import EPSILON

_ROWS = 8
"""Rows of one program."""


@triton.jit
def _rows(cosine, sine, slots, rows, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows and their slots, the columns of half a head, the mask of both in bounds, and the rotation."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < HALF)[None, :]
    slot = tl.load(slots + row, row < rows, 0)
    angle = row[:, None] * HALF + column[None, :]
    c = tl.load(cosine + angle, inside, 0).to(tl.float32)
    s = tl.load(sine + angle, inside, 0).to(tl.float32)
    return row, slot, column, inside, c, s


@triton.jit
def _head(row, slot, column, head, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Offsets of the first half of a head: in qkv (of its query), in the query tensor, and in the buffers."""
    source = (row * 3 * HEADS + head)[:, None] * (2 * HALF) + column[None, :]
    query_at = (row * HEADS + head)[:, None] * (2 * HALF) + column[None, :]
    buffer_at = (slot * HEADS + head)[:, None] * (2 * HALF) + column[None, :]
    return source, query_at, buffer_at


@triton.jit
def _forward(
    qkv, cosine, sine, slots, query, keys, values, target_slots, target_rows, rows, epsilon,
    ZERO_TARGETS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, slot, column, inside, c, s = _rows(cosine, sine, slots, rows, HALF, COLUMNS, ROWS)
    if ZERO_TARGETS:
        target_slot = tl.load(target_slots + row, row < target_rows, 0)
        in_bounds = (row < target_rows)[:, None] & (column < HALF)[None, :]
        for head in range(HEADS):
            _, _, buffer_at = _head(row, target_slot, column, head, HEADS, HALF)
            zeros = tl.zeros([ROWS, COLUMNS], values.dtype.element_ty)
            tl.store(values + buffer_at, zeros, in_bounds)
            tl.store(values + buffer_at + HALF, zeros, in_bounds)
    for head in range(HEADS):
        source, query_at, buffer_at = _head(row, slot, column, head, HEADS, HALF)
        for part in tl.static_range(3):
            at = source + part * HEADS * 2 * HALF
            a, b = tl.load(qkv + at, inside, 0), tl.load(qkv + at + HALF, inside, 0)
            if part == 2:
                tl.store(values + buffer_at, a, inside)
                tl.store(values + buffer_at + HALF, b, inside)
            else:
                a, b = a.to(tl.float32), b.to(tl.float32)
                scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + epsilon)[:, None]
                first, second = (a * c - b * s) * scale, (a * s + b * c) * scale
                if part == 0:
                    tl.store(query + query_at, first, inside)
                    tl.store(query + query_at + HALF, second, inside)
                else:
                    tl.store(keys + buffer_at, first, inside)
                    tl.store(keys + buffer_at + HALF, second, inside)


@triton.jit
def _backward(
    qkv, cosine, sine, slots, query, keys, values, second_keys, second_values, result, rows, epsilon,
    SUM_TWO: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, slot, column, inside, c, s = _rows(cosine, sine, slots, rows, HALF, COLUMNS, ROWS)
    for head in range(HEADS):
        source, query_at, buffer_at = _head(row, slot, column, head, HEADS, HALF)
        for part in tl.static_range(3):
            at = source + part * HEADS * 2 * HALF
            if part == 0:
                first, second = tl.load(query + query_at, inside, 0), tl.load(query + query_at + HALF, inside, 0)
            elif part == 1:
                first, second = tl.load(keys + buffer_at, inside, 0), tl.load(keys + buffer_at + HALF, inside, 0)
            else:
                first, second = tl.load(values + buffer_at, inside, 0), tl.load(values + buffer_at + HALF, inside, 0)
            first, second = first.to(tl.float32), second.to(tl.float32)
            if SUM_TWO:
                if part == 1:
                    first += tl.load(second_keys + buffer_at, inside, 0).to(tl.float32)
                    second += tl.load(second_keys + buffer_at + HALF, inside, 0).to(tl.float32)
                elif part == 2:
                    first += tl.load(second_values + buffer_at, inside, 0).to(tl.float32)
                    second += tl.load(second_values + buffer_at + HALF, inside, 0).to(tl.float32)
            if part == 2:
                tl.store(result + at, first, inside)
                tl.store(result + at + HALF, second, inside)
            else:
                a = tl.load(qkv + at, inside, 0).to(tl.float32)
                b = tl.load(qkv + at + HALF, inside, 0).to(tl.float32)
                scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + epsilon)[:, None]
                # Gradient of the rotation, then of the norm, which removes the component along the row itself.
                rotated, rotated_b = first * c + second * s, second * c - first * s
                projection = ((tl.sum(rotated * a, 1) + tl.sum(rotated_b * b, 1)) / (2 * HALF))[:, None] * scale * scale
                tl.store(result + at, (rotated - a * projection) * scale, inside)
                tl.store(result + at + HALF, (rotated_b - b * projection) * scale, inside)


def _launch(kernel: Any, rows: int, qkv: Tensor, *arguments: Any, **constants: Any) -> None:
    heads, width = qkv.shape[2:]
    kernel[(triton.cdiv(rows, _ROWS),)](
        qkv, *arguments, len(qkv), EPSILON,
        HEADS=heads, HALF=width // 2, COLUMNS=triton.next_power_of_2(width // 2), ROWS=_ROWS, **constants,
    )  # fmt: skip


class ScatterContextKV(torch.autograd.Function):
    """See `model.ops.qkv.scatter_context_kv`."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor, slots: Tensor, target_slots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """In one kernel."""
        qkv = qkv.contiguous()
        query = qkv.new_empty(len(qkv), *qkv.shape[2:])
        rows = len(slots) + len(target_slots)
        keys, values = (qkv.new_empty(rows, *qkv.shape[2:]) for _ in range(2))
        # Flash-attn-4 multiplies values beyond the end of a segment by zero; NaN in uninitialised memory would remain.
        arguments = cosine, sine, slots, query, keys, values, target_slots, len(target_slots)
        _launch(_forward, max(len(slots), len(target_slots)), qkv, *arguments, ZERO_TARGETS=True)
        ctx.save_for_backward(qkv, cosine, sine, slots)
        return query, keys, values, keys.view_as(keys), values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """In one kernel."""
        qkv, cosine, sine, slots = ctx.saved_tensors
        result = torch.empty_like(qkv)
        all_gradients = [g.contiguous() for g in gradients]
        _launch(_backward, len(qkv), qkv, cosine, sine, slots, *all_gradients, result, SUM_TWO=True)
        return result, None, None, None, None


class ScatterTargetKV(torch.autograd.Function):
    """See `model.ops.qkv.scatter_target_kv`."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor, slots: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In one kernel."""
        qkv = qkv.contiguous()
        query = qkv.new_empty(len(qkv), *qkv.shape[2:])
        _launch(_forward, len(qkv), qkv, cosine, sine, slots, query, keys, values, slots, 0, ZERO_TARGETS=False)
        ctx.save_for_backward(qkv, cosine, sine, slots)
        return query, keys.view_as(keys), values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, Tensor, Tensor]:
        """In one kernel."""
        qkv, cosine, sine, slots = ctx.saved_tensors
        query, keys, values = (g.contiguous() for g in gradients)
        result = torch.empty_like(qkv)
        _launch(_backward, len(qkv), qkv, cosine, sine, slots, query, keys, values, keys, values, result, SUM_TWO=False)
        # Gradients at the target slots are left in place: the backward of the context does not read them.
        return result, None, None, None, keys, values
