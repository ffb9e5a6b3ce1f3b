"""Root-mean-square normalisation without a gain (Zhang & Sennrich 2019)."""

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = torch.finfo(torch.float32).eps


def rms_norm(x: Tensor) -> Tensor:
    """x (..., D) divided by the root of the mean of its squares along the last axis."""
    return functional.rms_norm(x, x.shape[-1:], eps=EPSILON)
