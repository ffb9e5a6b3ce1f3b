"""`heads` on a GPU: one Triton kernel reads each row of query, key and value once and writes it where it belongs.

torch.compile makes five kernels and two copies of it, which take 2.4 ms where this one takes 0.3 (RESULTS.md).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.norm import EPSILON

_ROWS = 8
"""Rows of a program."""


@triton.jit
def _rows(cosine, sine, places, rows, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows, their places, the columns of half a head, which are real, and the rotation."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < HALF)[None, :]
    place = tl.load(places + row, row < rows, 0)
    angle = row[:, None] * HALF + column[None, :]
    c = tl.load(cosine + angle, inside, 0).to(tl.float32)
    s = tl.load(sine + angle, inside, 0).to(tl.float32)
    return row, place, column, inside, c, s


@triton.jit
def _head(row, place, column, head, HEADS: tl.constexpr, HALF: tl.constexpr):
    """Where the first half of a head lies: of the query in query, key and value; alone; and in its place."""
    source = (row * 3 * HEADS + head)[:, None] * (2 * HALF) + column[None, :]
    own = (row * HEADS + head)[:, None] * (2 * HALF) + column[None, :]
    there = (place * HEADS + head)[:, None] * (2 * HALF) + column[None, :]
    return source, own, there


@triton.jit
def _forward(
    qkv, cosine, sine, places, query, keys, values, others, cleared, rows, epsilon,
    CLEAR: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, place, column, inside, c, s = _rows(cosine, sine, places, rows, HALF, COLUMNS, ROWS)
    if CLEAR:
        other = tl.load(others + row, row < cleared, 0)
        to_clear = (row < cleared)[:, None] & (column < HALF)[None, :]
        for head in range(HEADS):
            _, _, there = _head(row, other, column, head, HEADS, HALF)
            nothing = tl.zeros([ROWS, COLUMNS], values.dtype.element_ty)
            tl.store(values + there, nothing, to_clear)
            tl.store(values + there + HALF, nothing, to_clear)
    for head in range(HEADS):
        source, own, there = _head(row, place, column, head, HEADS, HALF)
        for part in tl.static_range(3):
            at = source + part * HEADS * 2 * HALF
            a, b = tl.load(qkv + at, inside, 0), tl.load(qkv + at + HALF, inside, 0)
            if part == 2:
                tl.store(values + there, a, inside)
                tl.store(values + there + HALF, b, inside)
            else:
                a, b = a.to(tl.float32), b.to(tl.float32)
                scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + epsilon)[:, None]
                first, second = (a * c - b * s) * scale, (a * s + b * c) * scale
                if part == 0:
                    tl.store(query + own, first, inside)
                    tl.store(query + own + HALF, second, inside)
                else:
                    tl.store(keys + there, first, inside)
                    tl.store(keys + there + HALF, second, inside)


@triton.jit
def _backward(
    qkv, cosine, sine, places, query, keys, values, more_keys, more_values, result, rows, epsilon,
    TWICE: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, place, column, inside, c, s = _rows(cosine, sine, places, rows, HALF, COLUMNS, ROWS)
    for head in range(HEADS):
        source, own, there = _head(row, place, column, head, HEADS, HALF)
        for part in tl.static_range(3):
            at = source + part * HEADS * 2 * HALF
            if part == 0:
                first, second = tl.load(query + own, inside, 0), tl.load(query + own + HALF, inside, 0)
            elif part == 1:
                first, second = tl.load(keys + there, inside, 0), tl.load(keys + there + HALF, inside, 0)
            else:
                first, second = tl.load(values + there, inside, 0), tl.load(values + there + HALF, inside, 0)
            first, second = first.to(tl.float32), second.to(tl.float32)
            if TWICE:
                if part == 1:
                    first += tl.load(more_keys + there, inside, 0).to(tl.float32)
                    second += tl.load(more_keys + there + HALF, inside, 0).to(tl.float32)
                elif part == 2:
                    first += tl.load(more_values + there, inside, 0).to(tl.float32)
                    second += tl.load(more_values + there + HALF, inside, 0).to(tl.float32)
            if part == 2:
                tl.store(result + at, first, inside)
                tl.store(result + at + HALF, second, inside)
            else:
                a = tl.load(qkv + at, inside, 0).to(tl.float32)
                b = tl.load(qkv + at + HALF, inside, 0).to(tl.float32)
                scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + epsilon)[:, None]
                # Through the rotation, then through the norm: its own direction drops out.
                turned, turned_b = first * c + second * s, second * c - first * s
                along = ((tl.sum(turned * a, 1) + tl.sum(turned_b * b, 1)) / (2 * HALF))[:, None] * scale * scale
                tl.store(result + at, (turned - a * along) * scale, inside)
                tl.store(result + at + HALF, (turned_b - b * along) * scale, inside)


def _launch(kernel: Any, most: int, qkv: Tensor, *arguments: Any, **constants: Any) -> None:
    heads, width = qkv.shape[2:]
    kernel[(triton.cdiv(most, _ROWS),)](
        qkv, *arguments, len(qkv), EPSILON,
        HEADS=heads, HALF=width // 2, COLUMNS=triton.next_power_of_2(width // 2), ROWS=_ROWS, **constants,
    )  # fmt: skip


class ScatterContextKV(torch.autograd.Function):
    """See `heads.spread`."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor, places: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One kernel."""
        qkv = qkv.contiguous()
        query = qkv.new_empty(len(qkv), *qkv.shape[2:])
        rows = len(places) + len(others)
        keys, values = (qkv.new_empty(rows, *qkv.shape[2:]) for _ in range(2))
        # Flash-attn-4 multiplies values that follow a segment's last one by zero, which undoes no NaN of old memory.
        arguments = cosine, sine, places, query, keys, values, others, len(others)
        _launch(_forward, max(len(places), len(others)), qkv, *arguments, CLEAR=True)
        ctx.save_for_backward(qkv, cosine, sine, places)
        return query, keys, values, keys.view_as(keys), values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """One kernel."""
        qkv, cosine, sine, places = ctx.saved_tensors
        result = torch.empty_like(qkv)
        _launch(
            _backward, len(qkv), qkv, cosine, sine, places, *(g.contiguous() for g in gradients), result, TWICE=True
        )
        return result, None, None, None, None


class ScatterTargetKV(torch.autograd.Function):
    """See `heads.insert`."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor, places: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One kernel."""
        qkv = qkv.contiguous()
        query = qkv.new_empty(len(qkv), *qkv.shape[2:])
        _launch(_forward, len(qkv), qkv, cosine, sine, places, query, keys, values, places, 0, CLEAR=False)
        ctx.save_for_backward(qkv, cosine, sine, places)
        return query, keys.view_as(keys), values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, Tensor, Tensor]:
        """One kernel."""
        qkv, cosine, sine, places = ctx.saved_tensors
        query, keys, values = (g.contiguous() for g in gradients)
        result = torch.empty_like(qkv)
        _launch(_backward, len(qkv), qkv, cosine, sine, places, query, keys, values, keys, values, result, TWICE=False)
        # The targets' rows stay in: nobody reads them on the way back.
        return result, None, None, None, keys, values
