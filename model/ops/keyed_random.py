"""Counter-based random draws: each is a hash of its own key and depends on nothing else.

A key is a tuple of integers such as (seed, step, purpose, cell). The composition and order of batches, the device and
the position in a run change no draw, so that a resumed run draws what an uninterrupted one would have. The hash is the
32-bit finaliser of MurmurHash3 (Appleby), applied once for each part of the key; tests check uniformity and
independence. `model.ops.random_purposes` lists the purposes.
"""

import torch
from torch import Tensor

from model.ops.compilation import maybe_compile

_MASK = 0xFFFFFFFF


def _mix(h: Tensor) -> Tensor:
    # The 32-bit state is held in int64: products wrap around, but their low 32 bits are right.
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _MASK
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def hash_key(*parts: Tensor | int) -> Tensor:
    """Hash keys to int64 values in [0, 2**32).

    `parts` are non-negative integers and integer tensors, at least one of them a tensor, which broadcast to the shape
    of the result.
    """
    like = next(part for part in parts if isinstance(part, Tensor))
    h = torch.zeros((), dtype=torch.int64, device=like.device)
    for part in parts:
        value = part.to(torch.int64) if isinstance(part, Tensor) else part
        h = _mix((h * 5 + 0xE6546B64 + value) & _MASK)
    return _mix(h)


@maybe_compile
def uniform(*parts: Tensor | int) -> Tensor:
    """Uniform draws from [0, 1) for keys as in `hash_key`: float32 with 24 random bits, of the keys' common shape."""
    return (hash_key(*parts) >> 8).to(torch.float32) * (1.0 / (1 << 24))


def categorical(probabilities: Tensor, draw: Tensor) -> Tensor:
    """Categorical draws by inverting the distribution function: class indices, int64 (N,).

    `probabilities` float (N, K) with rows that sum to 1, `draw` (N,) uniform draws from [0, 1).
    """
    # The sum of rounded probabilities may stay below a draw.
    return (probabilities.cumsum(-1) <= draw[:, None]).sum(-1).clamp(max=probabilities.shape[-1] - 1)
