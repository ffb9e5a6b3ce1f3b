"""Fusing functions with torch.compile: which may be compiled (`maybe_compile`), and when they are (`set_enabled`).

Compiled functions are small and take weights as arguments, so that all layers share one compilation of a few seconds.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"unroll_reductions_threshold": 16}
"""Unrolls sums over the ten colours instead of launching a reduction program for each row."""

_dynamic: bool | None = None
"""None while compilation is disabled, which is the default."""


@contextlib.contextmanager
def set_enabled(mode: bool, *, dynamic: bool = False) -> Iterator[None]:
    """Enable or disable compilation within a `with` block; on exit the previous setting returns.

    `dynamic` compiles one kernel for all batch sizes, for batches whose sizes vary; else one kernel for each size.
    """
    global _dynamic
    before, _dynamic = _dynamic, dynamic if mode else None
    if mode:
        if torch.are_deterministic_algorithms_enabled():
            torch.use_deterministic_algorithms(True)  # The compiler too, whatever switched it on.
        # A function is compiled for contexts, targets and size tokens, with and without gradients, and each shape.
        torch._dynamo.config.recompile_limit = 64
    try:
        yield
    finally:
        _dynamic = before


def maybe_compile(function: Callable[P, R], *, static: bool = False) -> Callable[P, R]:
    """A function that is compiled at its first call with compilation enabled, and runs eagerly while it is disabled.

    With `static` it also runs eagerly under dynamic shapes: for functions too small to gain from compilation, or that
    would be recompiled for many shapes.
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


def mark_static(weight: Tensor) -> Tensor:
    """Tell the compiler that the shape of `weight` never changes, so that dynamic kernels are specialised to it."""
    if _dynamic:
        torch._dynamo.mark_static(weight)
    return weight
