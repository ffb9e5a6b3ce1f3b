"""Casting weights to the dtype of the computation, once for the two passes that use them.

One fused cast, shared by context and target passes; their gradients are summed in one kernel.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.ops.compilation import mark_static, maybe_compile


def cast_for_two_passes(weights: list[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Cast all weights to `dtype` in one kernel, and return them twice: for the context pass and for the target pass.

    Both lists share memory but are separate outputs in autograd, so that the gradients of the two passes arrive
    separately and are summed for all weights at once. A pass may leave weights unused.
    """
    if all(weight.dtype == dtype for weight in weights):
        weights = [mark_static(weight) for weight in weights]
        return weights, weights
    both = [mark_static(weight) for weight in _CastForTwoPasses.apply(dtype, *weights)]  # type: ignore[no-untyped-call]
    return both[: len(weights)], both[len(weights) :]


class _CastForTwoPasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        ctx.set_materialize_grads(False)
        result = _cast(weights, dtype)
        return *result, *(weight.view_as(weight) for weight in result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        half = len(gradients) // 2
        pairs = [[g for g in pair if g is not None] for pair in zip(gradients[:half], gradients[half:], strict=True)]
        result: list[Tensor | None] = [None] * half
        combine: dict[int, Callable[..., list[Tensor]]] = {1: _cast, 2: _sum}
        for passes, function in combine.items():
            indices = [i for i, pair in enumerate(pairs) if len(pair) == passes]
            if indices:
                totals = function(*zip(*(pairs[i] for i in indices), strict=True), ctx.dtype)
                for i, gradient in zip(indices, totals, strict=True):
                    result[i] = gradient
        return None, *result


@functools.partial(maybe_compile, static=True)
def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    result = [_empty(x, dtype) for x in tensors]
    torch._foreach_copy_(result, list(tensors))
    return result


@functools.partial(maybe_compile, static=True)
def _sum(first: Sequence[Tensor], second: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    result = [_empty(x, dtype) for x in first]
    torch._foreach_copy_(result, list(first))
    torch._foreach_add_(result, list(second))
    return result


def _empty(x: Tensor, dtype: torch.dtype) -> Tensor:
    # Gradients may be transposed; the fused copy needs contiguous memory.
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
