"""Which functions torch.compile may fuse, and whether it does: off until a training or a prediction asks for it.

Regions are small and take weights as arguments, so that all layers share one compilation, which takes seconds.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"unroll_reductions_threshold": 16}
"""Sums over the ten colours are a line of additions, not a program a row."""

_dynamic: bool | None = None
"""None while compiling is off."""


def switch(on: bool, *, dynamic: bool) -> None:
    """Compile the regions from now on, or stop; `dynamic` shapes are for batches whose sizes vary."""
    global _dynamic
    _dynamic = dynamic if on else None
    # A region serves contexts, targets and size tokens, with and without gradients, of every batch shape in use.
    torch._dynamo.config.recompile_limit = 64


def maybe_compile(function: Callable[P, R], *, static: bool = False) -> Callable[P, R]:
    """A function that is compiled at its first call after compiling was switched on; eager until then.

    With `static` only where shapes are: what is small, or would be compiled anew for many shapes.
    """
    compiled: dict[bool, Callable[P, R]] = {}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _dynamic is None or (static and _dynamic) or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if _dynamic not in compiled:
            compiled[_dynamic] = torch.compile(function, dynamic=_dynamic, fullgraph=True, options=_OPTIONS)
        return compiled[_dynamic](*args, **kwargs)

    return call


def of_fixed_shape(weight: Tensor) -> Tensor:
    """Mark a tensor whose shape is the same at every call, so that kernels for any number of rows know its width."""
    if _dynamic:
        torch._dynamo.mark_static(weight)
    return weight
