"""Weights in the type that a pass computes in: cast all at once, for two uses whose gradients are added all at once."""

from typing import Any

import torch
from torch import Tensor

from model.compilation import of_fixed_shape


def cast_twice(weights: list[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The weights as `dtype`, for contexts and for targets: the same memory, so that their gradients arrive apart."""
    if all(weight.dtype == dtype for weight in weights):
        weights = [of_fixed_shape(weight) for weight in weights]
        return weights, weights
    both = [of_fixed_shape(weight) for weight in _Twice.apply(dtype, *weights)]  # type: ignore[no-untyped-call]
    return both[: len(weights)], both[len(weights) :]


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [weight.dtype for weight in weights]
        result = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(result, list(weights))
        return *result, *(weight.view_as(weight) for weight in result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sums = torch._foreach_add(gradients[: len(ctx.dtypes)], gradients[len(ctx.dtypes) :])
        result = [torch.empty_like(x, dtype=dtype) for x, dtype in zip(sums, ctx.dtypes, strict=True)]
        torch._foreach_copy_(result, list(sums))
        return None, *result
