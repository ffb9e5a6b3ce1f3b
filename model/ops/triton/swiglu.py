"""SwiGLU on a GPU: Triton kernels that read and write each value once.

The backward kernel of torch.compile reads all inputs once for each half of the columns and takes 1.6 times as long
(docs/log.md).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 4, 256
"""Tile of a program."""


@triton.jit
def _offsets(rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets of this program's tile in (rows, 2 * WIDTH) and in (rows, WIDTH), and the mask of values in bounds."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    return row * (2 * WIDTH) + column, row * WIDTH + column, (row < rows) & (column < WIDTH)


@triton.jit
def _forward(hidden, result, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    whole, half, inside = _offsets(rows, WIDTH, ROWS, COLUMNS)
    a = tl.load(hidden + whole, inside, 0).to(tl.float32)
    b = tl.load(hidden + whole + WIDTH, inside, 0).to(tl.float32)
    tl.store(result + half, a * tl.sigmoid(a) * b, inside)


@triton.jit
def _backward(hidden, gradient, result, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    whole, half, inside = _offsets(rows, WIDTH, ROWS, COLUMNS)
    a = tl.load(hidden + whole, inside, 0).to(tl.float32)
    b = tl.load(hidden + whole + WIDTH, inside, 0).to(tl.float32)
    g = tl.load(gradient + half, inside, 0).to(tl.float32)
    s = tl.sigmoid(a)
    tl.store(result + whole, g * b * s * (1 + a * (1 - s)), inside)
    tl.store(result + whole + WIDTH, g * a * s, inside)


def _launch(kernel: Any, *tensors: Tensor) -> None:
    rows, width = len(tensors[0]), tensors[0].shape[1] // 2
    grid = triton.cdiv(rows, _ROWS), triton.cdiv(width, _COLUMNS)
    kernel[grid](*tensors, rows, WIDTH=width, ROWS=_ROWS, COLUMNS=_COLUMNS)


def gate(hidden: Tensor) -> Tensor:
    """SwiGLU of contiguous rows (N, 2 F), in one kernel: (N, F)."""
    result = hidden.new_empty(len(hidden), hidden.shape[1] // 2)
    _launch(_forward, hidden, result)
    return result


class SwiGLU(torch.autograd.Function):
    """See `model.ops.swiglu.swiglu`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        """(N, 2 F) -> (N, F)."""
        hidden = hidden.contiguous()
        ctx.save_for_backward(hidden)
        return gate(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """(N, F) -> (N, 2 F), in one kernel."""
        (hidden,) = ctx.saved_tensors
        result = torch.empty_like(hidden)
        _launch(_backward, hidden, gradient.contiguous(), result)
        return result
