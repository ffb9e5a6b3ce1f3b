"""Dropout inside the sublayers: of the outputs of the attention heads and of the feed-forward's gated activations."""

from torch import Tensor

from model.ops.compilation import maybe_compile
from model.ops.dropout import Drop, dropout


@maybe_compile
def drop_hidden(x: Tensor, drop: Drop) -> Tensor:
    """Dropout of what an output projection reads, x (N, K); in one kernel where it is compiled."""
    return dropout(x, *drop)
