"""`model.ops.convolution.convolved_swiglu` on a GPU: gate and convolution, a kernel each, and one for both gradients.

A tile's neighbours overlap, so most of its nine reads come from the cache. The compiler's kernels read them again for
each of the nine gradients of the kernel (docs/log.md). The gradients' kernel computes the gated values again, so that
neither they nor their gradients are read or written.

Dimensions: N rows, F columns.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.triton.swiglu import gate

_ROWS, _COLUMNS = 16, 128
"""Tile of a program of the forward kernel."""
_BACKWARD_ROWS, _BACKWARD_COLUMNS, _TILES = 8, 64, 64
"""Tile of the backward kernel, and how many a program takes one after the other: the fastest of 16 (docs/log.md)."""


@triton.jit
def _gather(x, near, row, column, rows, K, WIDTH: tl.constexpr):
    """Tile of neighbours K of the rows, float32; zero where there is none."""
    other = tl.load(near + row * 9 + K, row < rows, rows).to(tl.int64)[:, None]
    return tl.load(x + other * WIDTH + column, (other < rows) & (column < WIDTH), 0).to(tl.float32)


@triton.jit
def _forward(x, kernel, near, result, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    at, inside = row[:, None] * WIDTH + column, (row < rows)[:, None] & (column < WIDTH)
    total = tl.load(x + at, inside, 0).to(tl.float32)
    for k in tl.static_range(9):
        weight = tl.load(kernel + k * WIDTH + column, column < WIDTH, 0).to(tl.float32)
        total += _gather(x, near, row, column, rows, k, WIDTH) * weight
    tl.store(result + at, total, inside)


@triton.jit
def _add(total, weighted, own, gradient, kernel, near, row, column, rows, K: tl.constexpr, WIDTH: tl.constexpr):
    """Adds what neighbours K contribute to the gradients of the rows and of the kernel's weight 8 - K.

    Whatever reads row i as its neighbour 8 - K is the neighbour K of row i.
    """
    other = _gather(gradient, near, row, column, rows, K, WIDTH)
    weight = tl.load(kernel + (8 - K) * WIDTH + column, column < WIDTH, 0).to(tl.float32)
    return total + other * weight, weighted + other * own


@triton.jit
def _store(sums, weighted, place, column, K: tl.constexpr, WIDTH: tl.constexpr):
    tl.store(sums + (place * 9 + K) * WIDTH + column, tl.sum(weighted, 0)[None, :], column < WIDTH)


@triton.jit
def _backward(
    hidden, gradient, kernel, near, result, sums, rows,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    w0 = tl.zeros((ROWS, COLUMNS), tl.float32)
    w1, w2, w3, w4, w5, w6, w7, w8 = w0, w0, w0, w0, w0, w0, w0, w0
    for tile in range(TILES):
        row = (place * TILES + tile) * ROWS + tl.arange(0, ROWS)
        at, whole = row[:, None] * WIDTH + column, row[:, None] * (2 * WIDTH) + column
        inside = (row < rows)[:, None] & (column < WIDTH)
        a = tl.load(hidden + whole, inside, 0).to(tl.float32)
        b = tl.load(hidden + whole + WIDTH, inside, 0).to(tl.float32)
        s = tl.sigmoid(a)
        own = (a * s * b).to(hidden.dtype.element_ty).to(tl.float32)  # As it was rounded on the way forward.
        total = tl.load(gradient + at, inside, 0).to(tl.float32)
        total, w8 = _add(total, w8, own, gradient, kernel, near, row, column, rows, 0, WIDTH)
        total, w7 = _add(total, w7, own, gradient, kernel, near, row, column, rows, 1, WIDTH)
        total, w6 = _add(total, w6, own, gradient, kernel, near, row, column, rows, 2, WIDTH)
        total, w5 = _add(total, w5, own, gradient, kernel, near, row, column, rows, 3, WIDTH)
        total, w4 = _add(total, w4, own, gradient, kernel, near, row, column, rows, 4, WIDTH)
        total, w3 = _add(total, w3, own, gradient, kernel, near, row, column, rows, 5, WIDTH)
        total, w2 = _add(total, w2, own, gradient, kernel, near, row, column, rows, 6, WIDTH)
        total, w1 = _add(total, w1, own, gradient, kernel, near, row, column, rows, 7, WIDTH)
        total, w0 = _add(total, w0, own, gradient, kernel, near, row, column, rows, 8, WIDTH)
        tl.store(result + whole, total * b * s * (1 + a * (1 - s)), inside)
        tl.store(result + whole + WIDTH, total * a * s, inside)
    _store(sums, w0, place, column, 0, WIDTH)
    _store(sums, w1, place, column, 1, WIDTH)
    _store(sums, w2, place, column, 2, WIDTH)
    _store(sums, w3, place, column, 3, WIDTH)
    _store(sums, w4, place, column, 4, WIDTH)
    _store(sums, w5, place, column, 5, WIDTH)
    _store(sums, w6, place, column, 6, WIDTH)
    _store(sums, w7, place, column, 7, WIDTH)
    _store(sums, w8, place, column, 8, WIDTH)


class ConvolvedSwiGLU(torch.autograd.Function):
    """See `model.ops.convolution.convolved_swiglu`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, kernel: Tensor, near: Tensor) -> Tensor:
        """(N, 2 F), (9, F), (N, 9) -> (N, F)."""
        hidden, kernel, near = hidden.contiguous(), kernel.contiguous(), near.contiguous()
        gated = gate(hidden)
        rows, width = gated.shape
        result = torch.empty_like(gated)
        grid = triton.cdiv(rows, _ROWS), triton.cdiv(width, _COLUMNS)
        _forward[grid](gated, kernel, near, result, rows, WIDTH=width, ROWS=_ROWS, COLUMNS=_COLUMNS)
        ctx.save_for_backward(hidden, kernel, near)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """(N, F) -> (N, 2 F), (9, F). Sums are of fixed order: the same bits each time."""
        hidden, kernel, near = ctx.saved_tensors
        rows, width = gradient.shape
        programs = triton.cdiv(rows, _BACKWARD_ROWS * _TILES)
        result, sums = torch.empty_like(hidden), kernel.new_empty(programs, 9, width, dtype=torch.float32)
        _backward[programs, triton.cdiv(width, _BACKWARD_COLUMNS)](
            hidden, gradient.contiguous(), kernel, near, result, sums, rows,
            WIDTH=width, ROWS=_BACKWARD_ROWS, COLUMNS=_BACKWARD_COLUMNS, TILES=_TILES,
        )  # fmt: skip
        return result, sums.sum(0).to(kernel.dtype), None
