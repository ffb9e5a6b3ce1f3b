"""Reproducible dropout: the mask is a function of (seed, step, micro-batch), pass and layer.

torch.nn.functional.dropout runs ten rounds of Philox for each value, which took longer than the addition around it
(docs/log.md), and stores the mask for backward. This one hashes the index of each value in a few 32-bit operations and
recomputes the hash in backward.
"""

import functools

import torch
from torch import Tensor

from model.ops.compilation import maybe_compile
from model.ops.keyed_random import hash_key
from model.ops.random_purposes import TrainingDraw

Drop = tuple[float, Tensor | None]
"""Rate in [0, 1), and seed, int32 (), or None for no dropout: the last arguments of `dropout`."""
_BITS = 24


@functools.partial(maybe_compile, static=True)
def seeds(key: Tensor, *shape: int) -> Tensor:
    """Seeds of independent dropout masks, int32 `shape`, from a key, int64 ()."""
    index = torch.arange(torch.Size(shape).numel(), device=key.device)
    return hash_key(key, TrainingDraw.DROPOUT, index).to(torch.int32).view(shape)


def dropout(x: Tensor, rate: float, seed: Tensor | None) -> Tensor:
    """Set each value of x to zero with probability `rate`, and divide the others by 1 - rate.

    `rate` is in [0, 1), `seed` int32 (); without a seed x is returned unchanged.
    """
    if rate == 0 or seed is None:
        return x
    kept = _hashes(x.numel(), seed).view_as(x) >= round(rate * (1 << _BITS))
    return torch.where(kept, x / (1 - rate), 0)


def _hashes(count: int, seed: Tensor) -> Tensor:
    """Hash the indices 0 to count - 1 to [0, 2**_BITS), int32 (count,), by a two-multiplication mixer (Wellons 2018).

    The seed enters twice; entering once, two seeds would give permutations of one mask.
    """
    h = torch.arange(count, dtype=torch.int32, device=seed.device) ^ seed
    h = (h ^ _logical_shift(h, 16)) * 0x7FEB352D + seed * (0x9E3779B1 - (1 << 32))
    h = (h ^ _logical_shift(h, 15)) * (0x846CA68B - (1 << 32))
    return _logical_shift(h ^ _logical_shift(h, 16), 32 - _BITS)


def _logical_shift(h: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros; the operator on int32 fills with the sign bit."""
    return (h >> bits) & ((1 << (32 - bits)) - 1)
