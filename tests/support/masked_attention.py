"""The definition of attention within segments, which the kernels are tested against."""

import torch
from torch import Tensor

from model.ops.segments import Segments


def masked_attention(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """Softmax attention that masks all pairs of rows: O(Q K) memory. query (Q, H, W), key and value (K, H, W)."""
    q_segment = torch.bucketize(torch.arange(len(query)), segments.query_starts.long(), right=True)
    k_segment = torch.bucketize(torch.arange(len(key)), segments.key_starts.long(), right=True)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(q_segment[:, None] != k_segment[None], float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)
