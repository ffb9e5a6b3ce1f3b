"""The gate of the feed-forward (SwiGLU, Shazeer 2020): silu of the first half of the columns times the second half."""

from torch import Tensor
from torch.nn import functional

from model.ops.compilation import maybe_compile


def gate(hidden: Tensor) -> Tensor:
    """(N, 2 F) -> (N, F)."""
    if hidden.is_cuda:
        from model.ops.triton import swiglu

        return swiglu.Gate.apply(hidden)  # type: ignore[no-any-return, no-untyped-call]
    return _gate(hidden)


@maybe_compile
def _gate(hidden: Tensor) -> Tensor:
    gates, values = hidden.chunk(2, -1)
    return functional.silu(gates) * values
