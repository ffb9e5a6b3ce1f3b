"""Root-mean-square normalisation without a gain (Zhang & Sennrich 2019)."""

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = torch.finfo(torch.float32).eps


def rms_norm(x: Tensor) -> Tensor:
    """Divide x (..., D) by the root mean square of its last dimension."""
    return functional.rms_norm(x, x.shape[-1:], eps=EPSILON)
