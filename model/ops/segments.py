"""Segments of packed sequences, which say what rows attend to, and the padding plan for kernels that need padding."""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.ops.compilation import maybe_compile


class Segments(NamedTuple):
    """Segment s of the queries attends to segment s of the keys.

    Starts are int32 (segments + 1,): cumulative lengths from 0 to the number of rows.
    """

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    """Upper bound on the query rows of a segment."""
    longest_key: int
    gaps: tuple[Tensor, Tensor, Tensor] | None
    """Where key rows are skipped, for kernels that can leave rows out: starts of queries and of keys without the
    segments that have no queries, and the number of keys of each segment; int32. None where no rows are skipped."""
    buckets: "Buckets | None"
    """Padding plan; None on CUDA, where variable-length kernels run."""


class Buckets(NamedTuple):
    """How packed rows are copied to padded buckets: bucket b has `shapes[b]` = (sequences, query rows, key rows)."""

    shapes: tuple[tuple[int, int, int], ...]
    pad_query: Tensor
    """int64 (padded query rows,): the packed row that each padded row copies."""
    unpad_query: Tensor
    """int64 (query rows,): the padded row of each packed row."""
    query_is_real: Tensor
    """bool (padded query rows,): False at padding."""
    pad_key: Tensor
    unpad_key: Tensor
    key_is_real: Tensor
    key_is_read: Tensor
    """bool (key rows,): False in segments without queries."""


def make_segments(
    query_lengths: Tensor, key_lengths: Tensor, longest_query: int, longest_key: int, skipped: Tensor | None = None
) -> Segments:
    """Segments of these lengths, int64 (segments,) each; `longest_query` and `longest_key` bound them from above.

    `skipped` int64 (segments,) is the number of key rows after each segment that no query attends to; they form
    segments of their own, without queries.
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
    return torch.nn.functional.pad(lengths, (1, 0)).cumsum(0).to(torch.int32)  # Padding first makes this one kernel.


def _buckets(query_lengths: Tensor, key_lengths: Tensor) -> Buckets:
    """Sort sequences by key length; one longer than 1.5 times the first of its bucket, plus 16, starts a new bucket."""
    queries, keys = query_lengths.numpy(), key_lengths.numpy()
    order = np.argsort(keys, kind="stable")
    order = order[queries[order] > 0]
    cuts, limit = [], -1.0
    for i, length in enumerate(keys[order].tolist()):
        if length > limit:
            cuts.append(i)
            limit = 1.5 * length + 16
    spans = [order[a:b] for a, b in itertools.pairwise([*cuts, len(order)])]
    shapes = tuple((len(members), int(queries[members].max()), int(keys[members].max())) for members in spans)
    pad_q, unpad_q, real_q, _ = _padding(queries, spans, [q for _, q, _ in shapes])
    pad_k, unpad_k, real_k, read = _padding(keys, spans, [k for _, _, k in shapes])
    return Buckets(shapes, *map(torch.from_numpy, (pad_q, unpad_q, real_q, pad_k, unpad_k, real_k, read)))


def _padding(
    lengths: NDArray[np.int64], spans: list[NDArray[np.int64]], widths: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """`pad`, `unpad`, `is_real` and `is_read` of Buckets for sequences in buckets `spans`, padded to `widths`."""
    starts = lengths.cumsum() - lengths
    pad, real = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for members, width in zip(spans, widths, strict=True):
        local = np.arange(width)
        inside = local < lengths[members, None]
        pad.append(np.where(inside, starts[members, None] + local, 0).ravel())
        real.append(inside.ravel())
    pad_rows, is_real = np.concatenate(pad), np.concatenate(real)
    unpad, read = np.zeros(int(lengths.sum()), np.int64), np.zeros(int(lengths.sum()), np.bool_)
    (positions,) = np.nonzero(is_real)
    unpad[pad_rows[positions]] = positions
    read[pad_rows[positions]] = True
    return pad_rows, unpad, is_real, read
