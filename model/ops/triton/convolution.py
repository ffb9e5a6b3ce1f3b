"""`model.ops.convolution.convolved_swiglu` on a GPU: kernels for the gate, for the convolution, and for the gradients.

A kernel walks through the cells of a grid as they are read, line by line; a program has `WALKERS` walks side by side.
What three cells above each other contribute to those on their left and right is kept for a step, so that a cell is
read three times, not nine, and converted to float32 as often: instructions, not bytes, are what a convolution of
gathered rows waits for (docs/log.md). The gradients' kernel computes the gated values again, so that neither they nor
their gradients are read or written.

Dimensions: N rows, F columns.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.triton.swiglu import gate

_FORWARD = {"WALKERS": 2, "COLUMNS": 256, "STEPS": 16, "UNROLL": 2, "num_warps": 2}
"""Walks and columns of a program of the forward kernel, places of a walk, and how many are taken at a time: the fastest
of 39, as of 45 backward (docs/log.md)."""
_BACKWARD = {"WALKERS": 4, "COLUMNS": 64, "STEPS": 32, "UNROLL": 2, "num_warps": 2}


@triton.jit
def _code(walk, place, rows):
    """What `model.ops.convolution.Neighbours` packs about places (WALKERS,) of the walk; nothing beyond its ends."""
    return tl.load(walk + place, (place >= 0) & (place < rows), 64 << 5)


@triton.jit
def _has(code, SIDE: tl.constexpr):
    """Whether the places have a cell above (1), below (2), on the left (4), on the right (8), or one at all (16)."""
    return ((code & SIDE) != 0)[:, None]


@triton.jit
def _row(place, code, OFFSET: tl.constexpr):
    """The rows of places, (WALKERS, 1)."""
    return (place + (code >> 12)).to(OFFSET)[:, None]


@triton.jit
def _three(x, place, code, wanted, column, WIDTH: tl.constexpr, OFFSET: tl.constexpr):
    """The cells above, at and below the `wanted` places, zero where there is none: (WALKERS, COLUMNS) each."""
    at = _row(place, code, OFFSET) * WIDTH + column
    line = (((code >> 5) & 127) - 64).to(OFFSET)[:, None] * WIDTH
    inside = wanted[:, None] & (column < WIDTH)
    up = tl.load(x + (at - line), _has(code, 1) & inside, 0)
    own = tl.load(x + at, inside, 0)
    down = tl.load(x + (at + line), _has(code, 2) & inside, 0)
    return up, own, down


@triton.jit
def _weights(kernel, column, FIRST: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr):
    """The kernel's weights FIRST, FIRST + STEP and FIRST + 2 STEP, float32 (1, COLUMNS) each."""
    inside = column < WIDTH
    a = tl.load(kernel + FIRST * WIDTH + column, inside, 0).to(tl.float32)
    b = tl.load(kernel + (FIRST + STEP) * WIDTH + column, inside, 0).to(tl.float32)
    c = tl.load(kernel + (FIRST + 2 * STEP) * WIDTH + column, inside, 0).to(tl.float32)
    return a, b, c


@triton.jit
def _forward(
    x, kernel, walk, result, rows,
    WIDTH: tl.constexpr, WALKERS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
    OFFSET: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    start = (tl.program_id(1) * WALKERS + tl.arange(0, WALKERS)) * STEPS
    left_up, left, left_down = _weights(kernel, column, 0, 3, WIDTH)
    up, centre, down = _weights(kernel, column, 1, 3, WIDTH)
    right_up, right, right_down = _weights(kernel, column, 2, 3, WIDTH)
    pending = tl.zeros((WALKERS, COLUMNS), tl.float32)
    to_the_right = tl.zeros((WALKERS, COLUMNS), tl.float32)
    # Codes of the place before the present one (0), of the present one (1), and so on.
    code0, code1, code2 = start * 0, _code(walk, start - 1, rows), _code(walk, start, rows)
    next_u, next_own, next_d = _three(x, start - 1, code1, (start > 0) & (start <= rows), column, WIDTH, OFFSET)
    for step in tl.range(STEPS + 2, loop_unroll_factor=UNROLL):
        place = start + (step - 1)
        u, own, d = next_u.to(tl.float32), next_own.to(tl.float32), next_d.to(tl.float32)
        code3 = _code(walk, place + 2, rows)
        wanted = (step <= STEPS) & (place + 1 < rows)
        next_u, next_own, next_d = _three(x, place + 1, code2, wanted, column, WIDTH, OFFSET)
        total = pending + tl.where(_has(code0, 8), u * right_up + own * right + d * right_down, 0.0)
        written = (step >= 2) & (place <= rows)
        tl.store(result + _row(place - 1, code0, OFFSET) * WIDTH + column, total, written[:, None] & (column < WIDTH))
        pending = own + tl.where(_has(code1, 4), to_the_right, 0.0)
        pending = pending + u * up + tl.where(_has(code1, 16), own, 0.0) * centre + d * down
        to_the_right = u * left_up + own * left + d * left_down
        code0, code1, code2 = code1, code2, code3


@triton.jit
def _halves(hidden, place, code, wanted, column, WIDTH: tl.constexpr, OFFSET: tl.constexpr):
    """Both halves of the hidden values of the `wanted` places, zero at others."""
    inside = wanted[:, None] & (column < WIDTH)
    at = _row(place, code, OFFSET) * (2 * WIDTH) + column
    return tl.load(hidden + at, inside, 0), tl.load(hidden + at + WIDTH, inside, 0)


@triton.jit
def _gated(a, b):
    """Gated values, as they were rounded on the way forward, and their derivatives by both halves."""
    dtype: tl.constexpr = a.dtype
    a, b = a.to(tl.float32), b.to(tl.float32)
    s = tl.sigmoid(a)
    by_b = a * s
    return (by_b * b).to(dtype).to(tl.float32), b * s * (1 + a - by_b), by_b


@triton.jit
def _store(sums, total, column, K: tl.constexpr, WIDTH: tl.constexpr):
    tl.store(sums + K * WIDTH + column, tl.sum(total, 0)[None, :], column < WIDTH)


@triton.jit
def _backward(
    hidden, gradient, kernel, walk, result, sums, rows,
    WIDTH: tl.constexpr, WALKERS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
    OFFSET: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    start = (tl.program_id(1) * WALKERS + tl.arange(0, WALKERS)) * STEPS
    # Whatever reads a cell as its neighbour k is the neighbour 8 - k of that cell: weights are turned by 180 degrees.
    left_up, left, left_down = _weights(kernel, column, 8, -3, WIDTH)
    up, centre, down = _weights(kernel, column, 7, -3, WIDTH)
    right_up, right, right_down = _weights(kernel, column, 6, -3, WIDTH)
    zero = tl.zeros((WALKERS, COLUMNS), tl.float32)
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    pending, to_the_right = zero, zero
    # Of the place before the present one (0), of the present one (1), and so on; cells of other walks count as zero.
    # Zeros of their own: Triton takes a name whose new value equals its old one for unchanged by the loop.
    x1, of_a1, of_b1 = zero, zero, zero
    x0, of_a0, of_b0 = (
        tl.zeros((WALKERS, COLUMNS), tl.float32),
        tl.zeros((WALKERS, COLUMNS), tl.float32),
        tl.zeros((WALKERS, COLUMNS), tl.float32),
    )
    code0, code1 = start * 0, _code(walk, start - 1, rows)
    code2, code3 = _code(walk, start, rows), _code(walk, start + 1, rows)
    next_u, next_own, next_d = _three(gradient, start - 1, code1, (start > 0) & (start <= rows), column, WIDTH, OFFSET)
    next_a, next_b = _halves(hidden, start, code2, start < rows, column, WIDTH, OFFSET)
    for step in tl.range(STEPS + 2, loop_unroll_factor=UNROLL):
        place = start + (step - 1)
        u, own, d = next_u.to(tl.float32), next_own.to(tl.float32), next_d.to(tl.float32)
        x2, of_a2, of_b2 = _gated(next_a, next_b)
        code4 = _code(walk, place + 3, rows)
        wanted = (step <= STEPS) & (place + 1 < rows)
        next_u, next_own, next_d = _three(gradient, place + 1, code2, wanted, column, WIDTH, OFFSET)
        wanted = (step < STEPS - 1) & (place + 2 < rows)
        next_a, next_b = _halves(hidden, place + 2, code3, wanted, column, WIDTH, OFFSET)
        total = pending + tl.where(_has(code0, 8), u * right_up + own * right + d * right_down, 0.0)
        at = _row(place - 1, code0, OFFSET) * (2 * WIDTH) + column
        written = ((step >= 2) & (place <= rows))[:, None] & (column < WIDTH)
        tl.store(result + at, total * of_a0, written)
        tl.store(result + at + WIDTH, total * of_b0, written)
        pending = own + tl.where(_has(code1, 4), to_the_right, 0.0)
        pending = pending + u * up + tl.where(_has(code1, 16), own, 0.0) * centre + d * down
        to_the_right = u * left_up + own * left + d * left_down
        beside = tl.where(_has(code0, 8), x0, 0.0)
        w6, w3, w0 = w6 + beside * u, w3 + beside * own, w0 + beside * d
        beside = tl.where(_has(code1, 16), x1, 0.0)
        w7, w4, w1 = w7 + beside * u, w4 + beside * own, w1 + beside * d
        beside = tl.where(_has(code2, 4), x2, 0.0)
        w8, w5, w2 = w8 + beside * u, w5 + beside * own, w2 + beside * d
        x0, of_a0, of_b0 = x1, of_a1, of_b1
        x1, of_a1, of_b1 = x2, of_a2, of_b2
        code0, code1, code2, code3 = code1, code2, code3, code4
    sums += tl.program_id(1).to(tl.int64) * (9 * WIDTH)
    _store(sums, w0, column, 0, WIDTH)
    _store(sums, w1, column, 1, WIDTH)
    _store(sums, w2, column, 2, WIDTH)
    _store(sums, w3, column, 3, WIDTH)
    _store(sums, w4, column, 4, WIDTH)
    _store(sums, w5, column, 5, WIDTH)
    _store(sums, w6, column, 6, WIDTH)
    _store(sums, w7, column, 7, WIDTH)
    _store(sums, w8, column, 8, WIDTH)


class ConvolvedSwiGLU(torch.autograd.Function):
    """See `model.ops.convolution.convolved_swiglu`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, kernel: Tensor, walk: Tensor) -> Tensor:
        """(N, 2 F), (9, F), (N,) -> (N, F)."""
        hidden, kernel = hidden.contiguous(), kernel.contiguous()
        gated = gate(hidden)
        rows, width = gated.shape
        result = torch.empty_like(gated)
        grid = triton.cdiv(width, _FORWARD["COLUMNS"]), triton.cdiv(rows, _FORWARD["WALKERS"] * _FORWARD["STEPS"])
        _forward[grid](gated, kernel, walk, result, rows, WIDTH=width, OFFSET=_offset(hidden), **_FORWARD)
        ctx.save_for_backward(hidden, kernel, walk)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """(N, F) -> (N, 2 F), (9, F). Sums are of fixed order: the same bits each time."""
        hidden, kernel, walk = ctx.saved_tensors
        rows, width = gradient.shape
        programs = triton.cdiv(rows, _BACKWARD["WALKERS"] * _BACKWARD["STEPS"])
        result, sums = torch.empty_like(hidden), kernel.new_empty(programs, 9, width, dtype=torch.float32)
        _backward[triton.cdiv(width, _BACKWARD["COLUMNS"]), programs](
            hidden, gradient.contiguous(), kernel, walk, result, sums, rows,
            WIDTH=width, OFFSET=_offset(hidden), **_BACKWARD,
        )  # fmt: skip
        return result, sums.sum(0).to(kernel.dtype), None


def _offset(hidden: Tensor) -> Any:
    """The type of offsets into the hidden values and beyond by a line of cells."""
    return tl.int32 if hidden.numel() < 2**31 - 64 * hidden.shape[1] else tl.int64
