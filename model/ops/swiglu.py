"""SwiGLU, the activation of the feed-forward (Shazeer 2020): silu(gates) * values."""

from torch import Tensor
from torch.nn import functional

from model.ops.compilation import maybe_compile


def swiglu(hidden: Tensor) -> Tensor:
    """SwiGLU of rows (N, 2 F), whose first F columns are the gates: (N, F)."""
    if hidden.is_cuda:
        from model.ops.triton.swiglu import SwiGLU

        return SwiGLU.apply(hidden)  # type: ignore[no-any-return, no-untyped-call]
    return _swiglu(hidden)


@maybe_compile
def _swiglu(hidden: Tensor) -> Tensor:
    gates, values = hidden.chunk(2, -1)
    return functional.silu(gates) * values
