"""Which rows attend to which: segments of packed sequences, and the padding plan where no kernel takes them packed."""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.ops.compilation import maybe_compile


class Segments(NamedTuple):
    """Who attends to whom. Starts are int32 (segments + 1,), from 0 to the number of rows."""

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    gaps: tuple[Tensor, Tensor, Tensor] | None
    """Where key rows are skipped: starts of queries and keys without the segments that have no queries, and how many
    keys each has, int32, for kernels that can leave rows out."""
    buckets: "Buckets | None"
    """Padding plan, only where no variable-length kernel runs."""


class Buckets(NamedTuple):
    """Padded copies of packed rows: bucket b has `shapes[b]` = (sequences, query rows, key rows)."""

    shapes: tuple[tuple[int, int, int], ...]
    pad_query: Tensor
    """int64 (padded query rows,): the packed row behind each padded row."""
    unpad_query: Tensor
    """int64 (query rows,): where each packed row went."""
    query_is_real: Tensor
    """bool (padded query rows,)."""
    pad_key: Tensor
    unpad_key: Tensor
    key_is_real: Tensor
    key_is_read: Tensor
    """bool (key rows,): False where the segment has no queries."""


def segments(
    query_lengths: Tensor, key_lengths: Tensor, longest_query: int, longest_key: int, skipped: Tensor | None = None
) -> Segments:
    """Segments of these lengths, int64 (segments,); the longest are upper bounds known to the host.

    `skipped` int64 (segments,) key rows after each segment's belong to nobody: to segments of their own, without
    queries.
    """
    gaps = None
    if skipped is not None:
        lengths = key_lengths.to(torch.int32)
        gaps = _starts(query_lengths), _starts(key_lengths + skipped), lengths
        query_lengths = torch.stack([query_lengths, torch.zeros_like(query_lengths)], 1).flatten()
        key_lengths = torch.stack([key_lengths, skipped], 1).flatten()
    buckets = None if query_lengths.device.type == "cuda" else _buckets(query_lengths, key_lengths)
    return Segments(_starts(query_lengths), _starts(key_lengths), longest_query, longest_key, gaps, buckets)


@maybe_compile
def _starts(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths, (1, 0)).cumsum(0).to(torch.int32)  # In this order it is one kernel.


def _buckets(query_lengths: Tensor, key_lengths: Tensor) -> Buckets:
    """Sequences sorted by length, cut wherever the next is more than 1.5 times (and 16 rows) its bucket's first."""
    queries, keys = query_lengths.numpy(), key_lengths.numpy()
    order = np.argsort(keys, kind="stable")
    order = order[queries[order] > 0]
    cuts, limit = [], -1.0
    for i, length in enumerate(keys[order].tolist()):
        if length > limit:
            cuts.append(i)
            limit = 1.5 * length + 16
    spans = [order[a:b] for a, b in itertools.pairwise([*cuts, len(order)])]
    shapes = tuple((len(which), int(queries[which].max()), int(keys[which].max())) for which in spans)
    pad_q, unpad_q, real_q, _ = _padding(queries, spans, [q for _, q, _ in shapes])
    pad_k, unpad_k, real_k, read = _padding(keys, spans, [k for _, _, k in shapes])
    return Buckets(shapes, *map(torch.from_numpy, (pad_q, unpad_q, real_q, pad_k, unpad_k, real_k, read)))


def _padding(
    lengths: NDArray[np.int64], spans: list[NDArray[np.int64]], widths: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The packed row behind each padded one, where each packed row went, and which of either are real."""
    starts = lengths.cumsum() - lengths
    pad, real = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for which, width in zip(spans, widths, strict=True):
        local = np.arange(width)
        inside = local < lengths[which, None]
        pad.append(np.where(inside, starts[which, None] + local, 0).ravel())
        real.append(inside.ravel())
    pad_rows, is_real = np.concatenate(pad), np.concatenate(real)
    unpad, read = np.zeros(int(lengths.sum()), np.int64), np.zeros(int(lengths.sum()), np.bool_)
    (places,) = np.nonzero(is_real)
    unpad[pad_rows[places]] = places
    read[pad_rows[places]] = True
    return pad_rows, unpad, is_real, read
