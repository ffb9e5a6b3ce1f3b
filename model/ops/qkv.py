"""Query, key and value heads of rows: split, normalised, rotated by position, and put where attention reads them.

The keys and values of context and target of a sequence lie side by side in one buffer, context first. A context puts
its rows in once; every look at a target overwrites the target's rows alone, so nothing is ever interleaved by copying.

Suffixes: N rows, H heads, W width of a head.
"""

import functools
import math

import torch
from torch import Tensor

from model.ops.compilation import maybe_compile
from model.ops.norm import rms_norm

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of the angle of every pair of columns, (N, 1, W / 2), times the square root of the gain."""


def scatter_context_kv(
    qkv: Tensor, rotation: Rotation, places: Tensor, others: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of contexts: query (N, H, W), and keys and values (N + M, H, W) twice, with those of row i at `places[i]`.

    `qkv` (N, 3, H, W), `places` int64 (N,), `others` int64 (M,) the places of targets: their values are zeroed
    and their keys are uninitialised. Both pairs share memory: one serves the context's own attention, the other
    `scatter_target_kv`, so that their gradients arrive separately and are added in backward.
    """
    if qkv.is_cuda:
        from model.ops.triton import qkv as heads_kernel

        return heads_kernel.ScatterContextKV.apply(qkv, *rotation, places, others)  # type: ignore[no-any-return, no-untyped-call]
    query, key, value = _split(qkv, *rotation)
    rows = len(places) + len(others)
    keys, values = (x.new_zeros(rows, *x.shape[1:]).index_copy(0, places, x) for x in (key, value))
    return query, keys, values, keys, values


def scatter_target_kv(
    qkv: Tensor, rotation: Rotation, places: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of targets: query (N, H, W), and the keys and values with theirs at `places`; on a GPU in the same memory."""
    if qkv.is_cuda:
        from model.ops.triton import qkv as heads_kernel

        return heads_kernel.ScatterTargetKV.apply(qkv, *rotation, places, keys, values)  # type: ignore[no-any-return, no-untyped-call]
    query, key, value = _split(qkv, *rotation)
    return query, keys.index_copy(0, places, key), values.index_copy(0, places, value)


def rotation_of(position: Tensor, width: int, dtype: torch.dtype, gain: float = 1.0, fastest: float = 1.0) -> Rotation:
    """Of rows at `position` (N, 3): 3/8 of the pairs turn by row, 3/8 by column, 1/4 by grid.

    The fastest pair of rows and of columns turns by `fastest` radians per cell. Cosines and sines are multiplied by the
    square root of `gain`: queries and keys both carry it, so attention scores are multiplied by `gain`.
    """
    return _turned(position, *_frequencies(width, position.device, gain, fastest), dtype)


@functools.cache
def _frequencies(width: int, device: torch.device, gain: float, fastest: float) -> tuple[Tensor, Tensor]:
    """Radians per cell of each pair of columns along each axis, (3, W / 2), and the square root of `gain`, scalar.

    The root is a tensor because compiled regions treat Python numbers as shapes that may change.
    """
    pairs = width // 2
    shares = (3 * pairs // 8, 3 * pairs // 8, pairs - 2 * (3 * pairs // 8))
    bases, first = (60.0, 60.0, 4.0), (fastest, fastest, 1.0)
    parts = [
        speed * torch.exp(-torch.arange(n) * (math.log(base) / n))
        for n, base, speed in zip(shares, bases, first, strict=True)
    ]
    table: Tensor = torch.block_diag(*parts).to(device)  # type: ignore[no-untyped-call]
    return table, torch.tensor(math.sqrt(gain), device=device)


@maybe_compile
def _turned(position: Tensor, frequencies: Tensor, root: Tensor, dtype: torch.dtype) -> Rotation:
    rows, columns, grids = (position[:, axis, None] * frequencies[axis] for axis in range(3))
    angle = (rows + columns + grids)[:, None]
    return (root * angle.cos()).to(dtype), (root * angle.sin()).to(dtype)


@maybe_compile
def _split(qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.unbind(1)
    return _rotate(rms_norm(query), cosine, sine), _rotate(rms_norm(key), cosine, sine), value


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], -1)
