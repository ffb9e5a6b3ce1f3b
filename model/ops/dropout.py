"""Dropout that is a function of its key: the same for the same (seed, step, micro-batch), pass and layer.

torch draws ten rounds of Philox for every number, which took longer than the addition around it (RESULTS.md), and keeps
the mask for the way back. This one hashes the index of each value in a few 32-bit operations and hashes it again there.
"""

import functools

import torch
from torch import Tensor

from model.ops.compilation import maybe_compile
from model.ops.keyed_random import hash_key
from model.ops.random_purposes import TrainingDraw

Drop = tuple[float, Tensor | None]
"""Rate and seed of a dropout."""
_BITS = 24


@functools.partial(maybe_compile, static=True)
def seeds(key: Tensor, *shape: int) -> Tensor:
    """Seeds of dropouts that know nothing of each other, int32 `shape`, for a key int64 ()."""
    places = torch.arange(torch.Size(shape).numel(), device=key.device)
    return hash_key(key, TrainingDraw.DROPOUT, places).to(torch.int32).view(shape)


def dropout(x: Tensor, rate: float, seed: Tensor | None) -> Tensor:
    """Each value of x zero with probability `rate`, else divided by 1 - rate; x itself without a seed, int32 ()."""
    if rate == 0 or seed is None:
        return x
    kept = _draws(x.numel(), seed).view_as(x) >= round(rate * (1 << _BITS))
    return torch.where(kept, x / (1 - rate), 0)


def _draws(count: int, seed: Tensor) -> Tensor:
    """Hashes below 2**_BITS, int32 (count,): a mixer of two products (Wellons 2018) that takes the seed twice.

    Twice, for masks of two seeds would else be the same mask in another order.
    """
    h = torch.arange(count, dtype=torch.int32, device=seed.device) ^ seed
    h = (h ^ _shifted(h, 16)) * 0x7FEB352D + seed * (0x9E3779B1 - (1 << 32))
    h = (h ^ _shifted(h, 15)) * (0x846CA68B - (1 << 32))
    return _shifted(h ^ _shifted(h, 16), 32 - _BITS)


def _shifted(h: Tensor, bits: int) -> Tensor:
    # Right shifts of int32 bring the sign along.
    return (h >> bits) & ((1 << (32 - bits)) - 1)
