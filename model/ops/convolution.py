"""A 3x3 depthwise convolution of rows whose neighbours are given by index.

Dimensions: N rows, F columns.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.ops.compilation import maybe_compile
from model.ops.swiglu import swiglu

OFFSETS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
"""Rows and columns from a cell to its nine neighbours, itself included, in the order of a kernel of conv2d. The
neighbour opposite to k is 8 - k."""


class Neighbours(NamedTuple):
    """The neighbours of N rows, twice: by row, and by the way that a kernel takes through each grid."""

    near: Tensor
    """int32 (N, 9): as `convolve` takes it."""
    walk: Tensor
    """int32 (N,): the rows in the order in which the cells of a grid are read, line by line in the frame of its view.

    Of place n, from the highest bit: its row minus n, in 20 bits; how many rows below it the cell of the next line is,
    plus 64, in 7 bits; whether it is a cell, and has cells on the right, on the left, below and above, in a bit each.
    """


def convolved_swiglu(hidden: Tensor, kernel: Tensor, neighbours: Neighbours) -> Tensor:
    """SwiGLU of rows (N, 2 F), as in `model.ops.swiglu`, then `convolve`: (N, F)."""
    if hidden.is_cuda:
        from model.ops.triton.convolution import ConvolvedSwiGLU

        return ConvolvedSwiGLU.apply(hidden, kernel, neighbours.walk)  # type: ignore[no-any-return, no-untyped-call]
    return convolve(swiglu(hidden), kernel, neighbours.near)


@maybe_compile
def convolve(x: Tensor, kernel: Tensor, near: Tensor) -> Tensor:
    """x (N, F) plus its depthwise convolution, which is zero at rows without neighbours.

    `kernel` float (9, F) has a weight for each neighbour and column. `near` int32 (N, 9) are the rows of the neighbours
    in the order of `OFFSETS`, N for none; it must be symmetric: if j is neighbour k of i, i is neighbour 8 - k of j.
    """
    return x + _Convolution.apply(x, kernel, near)  # type: ignore[no-any-return, no-untyped-call]


class _Convolution(torch.autograd.Function):
    """The convolution; its gradients are gathered too, where torch's would scatter rows one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, near: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel, near)
        return _weighted(x, kernel, near)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, kernel, near = ctx.saved_tensors
        padded, wide = functional.pad(x, (0, 0, 0, 1)), gradient.to(kernel.dtype)
        of_kernel = torch.stack([(wide * padded.index_select(0, near[:, k])).sum(0) for k in range(len(OFFSETS))])
        # Whatever reads row i as its neighbour k is the neighbour 8 - k of row i.
        return _weighted(gradient, kernel.flip(0), near), of_kernel.to(kernel.dtype), None


def _weighted(x: Tensor, kernel: Tensor, near: Tensor) -> Tensor:
    padded = functional.pad(x, (0, 0, 0, 1))
    total = padded.index_select(0, near[:, 0]) * kernel[0]
    for k in range(1, len(OFFSETS)):
        total.addcmul_(padded.index_select(0, near[:, k]), kernel[k])
    return total.to(x.dtype)
