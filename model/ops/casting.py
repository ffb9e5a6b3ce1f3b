"""Weights in the type that a pass computes in: cast all at once, for two uses whose gradients are added all at once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.ops.compilation import mark_static, maybe_compile


def cast_twice(weights: list[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The weights as `dtype`, for contexts and for targets: the same memory, so that their gradients arrive apart.

    Either may be left unused.
    """
    if all(weight.dtype == dtype for weight in weights):
        weights = [mark_static(weight) for weight in weights]
        return weights, weights
    both = [mark_static(weight) for weight in _Twice.apply(dtype, *weights)]  # type: ignore[no-untyped-call]
    return both[: len(weights)], both[len(weights) :]


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        ctx.set_materialize_grads(False)
        result = _cast(weights, dtype)
        return *result, *(weight.view_as(weight) for weight in result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        half = len(gradients) // 2
        sides = [[g for g in pair if g is not None] for pair in zip(gradients[:half], gradients[half:], strict=True)]
        result: list[Tensor | None] = [None] * half
        of: dict[int, Callable[..., list[Tensor]]] = {1: _cast, 2: _sum}
        for uses, add in of.items():
            which = [i for i, side in enumerate(sides) if len(side) == uses]
            if which:
                sums = add(*zip(*(sides[i] for i in which), strict=True), ctx.dtype)
                for i, gradient in zip(which, sums, strict=True):
                    result[i] = gradient
        return None, *result


@functools.partial(maybe_compile, static=True)
def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    result = [_like(x, dtype) for x in tensors]
    torch._foreach_copy_(result, list(tensors))
    return result


@functools.partial(maybe_compile, static=True)
def _sum(first: Sequence[Tensor], second: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    result = [_like(x, dtype) for x in first]
    torch._foreach_copy_(result, list(first))
    torch._foreach_add_(result, list(second))
    return result


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    # Gradients may come transposed; what is copied all at once must lie in a row.
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
