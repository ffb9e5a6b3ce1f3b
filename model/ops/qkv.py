"""Query, key and value heads: RMS norm, rotary position embedding, and key/value buffers shared by context and target.

A layer has one buffer of keys and one of values for all rows of a batch, in which each sequence has its context rows
before its target rows. Encoding the contexts writes their slots once; each denoising pass overwrites the target slots
only, so that context and target are never concatenated by copying.

Dimensions: N rows of one kind, M rows of the other, H heads, W head width.
"""

import functools
import math

import torch
from torch import Tensor

from model.ops.compilation import maybe_compile
from model.ops.norm import rms_norm

Rotation = tuple[Tensor, Tensor]
"""Rotary embedding: cosine and sine of the angle of every pair of columns, (N, 1, W / 2) each, times the square root of
the attention gain."""


def scatter_context_kv(
    qkv: Tensor, rotation: Rotation, slots: Tensor, target_slots: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Split the heads of context rows and write their keys and values to new buffers.

    `qkv` (N, 3, H, W); `slots` int64 (N,) and `target_slots` int64 (M,) are the buffer slots of context and target
    rows. Returns the query (N, H, W), and keys and values (N + M, H, W) twice: target values are zeroed, target keys
    are uninitialised on a GPU. Both pairs share memory; the first serves the attention of the context, the second
    `scatter_target_kv`, so that their gradients arrive separately and are summed in one kernel.
    """
    if qkv.is_cuda:
        from model.ops.triton.qkv import ScatterContextKV

        return ScatterContextKV.apply(qkv, *rotation, slots, target_slots)  # type: ignore[no-any-return, no-untyped-call]
    query, key, value = _split(qkv, *rotation)
    rows = len(slots) + len(target_slots)
    keys, values = (x.new_zeros(rows, *x.shape[1:]).index_copy(0, slots, x) for x in (key, value))
    return query, keys, values, keys, values


def scatter_target_kv(
    qkv: Tensor, rotation: Rotation, slots: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Split the heads of target rows, and write their keys and values to `slots` of the buffers; on a GPU in place.

    `qkv` (N, 3, H, W), `slots` int64 (N,), `keys` and `values` (N + M, H, W). Returns the query (N, H, W) and both
    buffers.
    """
    if qkv.is_cuda:
        from model.ops.triton.qkv import ScatterTargetKV

        return ScatterTargetKV.apply(qkv, *rotation, slots, keys, values)  # type: ignore[no-any-return, no-untyped-call]
    query, key, value = _split(qkv, *rotation)
    return query, keys.index_copy(0, slots, key), values.index_copy(0, slots, value)


@maybe_compile
def scale_heads(query: Tensor, log_gain: Tensor) -> Tensor:
    """Multiply the query (N, H, W) of each head, and thereby its attention scores, by the exponential of its (H,)."""
    return (query * log_gain.exp()[:, None]).to(query.dtype)


def rotation_of(position: Tensor, width: int, dtype: torch.dtype, gain: float = 1.0, fastest: float = 1.0) -> Rotation:
    """Rotary embedding of rows at `position` (N, 3), row, column and grid, for heads of `width` columns.

    Of the pairs of columns 3/8 rotate by row, 3/8 by column and 1/4 by grid. The fastest pair of rows and of columns
    rotates by `fastest` radians per cell. Cosine and sine are multiplied by the square root of `gain`; since query and
    key both carry it, attention scores are multiplied by `gain`.
    """
    return _rotation(position, *_frequencies(width, position.device, gain, fastest), dtype)


@functools.cache
def _frequencies(width: int, device: torch.device, gain: float, fastest: float) -> tuple[Tensor, Tensor]:
    """Radians per cell of each pair of columns along each axis, float32 (3, W / 2), and the square root of `gain`, ().

    The root is a tensor because the compiler treats Python numbers as shapes that may change.
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
def _rotation(position: Tensor, frequencies: Tensor, root: Tensor, dtype: torch.dtype) -> Rotation:
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
