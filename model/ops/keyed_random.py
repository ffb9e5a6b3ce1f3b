"""Uniform draws that depend on what they are for and on nothing else.

A draw is a hash of its key (seed, step, cell, ...), so that batch composition, order and device change nothing and a
resumed run draws what the uninterrupted one would have. The mixer is the 32-bit finaliser of MurmurHash3 (Appleby),
applied once per part of the key; tests hold its uniformity and independence.
"""

import torch
from torch import Tensor

from model.ops.compilation import maybe_compile

_MASK = 0xFFFFFFFF


def _mix(h: Tensor) -> Tensor:
    # int64 holds the 32-bit state; the low 32 bits of a wrapped product are the right ones.
    h = h ^ (h >> 16)
    h = (h * 0x85EBCA6B) & _MASK
    h = h ^ (h >> 13)
    h = (h * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def hash_key(*parts: Tensor | int) -> Tensor:
    """Hash broadcastable non-negative integers into int64 values below 2**32. At least one part is a tensor."""
    like = next(part for part in parts if isinstance(part, Tensor))
    h = torch.zeros((), dtype=torch.int64, device=like.device)
    for part in parts:
        value = part.to(torch.int64) if isinstance(part, Tensor) else part
        h = _mix((h * 5 + 0xE6546B64 + value) & _MASK)
    return _mix(h)


@maybe_compile
def uniform(*parts: Tensor | int) -> Tensor:
    """A float32 in [0, 1) for each key, with 24 random bits."""
    return (hash_key(*parts) >> 8).to(torch.float32) * (1.0 / (1 << 24))
