"""Which evaluated pairs occur among training pairs, as they are or under a view."""

import hashlib

import numpy as np

from model.augmentation import D4, transform
from model.grids import COLOURS, Grid


def canonical(*cells: Grid) -> bytes:
    """Digest of grids (an input with its output, or one alone) that is equal for all their views and for nothing else.

    Of the eight D4 images, with colours 1-9 renamed in the order of their first appearance (black stays), the least.
    """
    return min(_digest([transform(element, grid) for grid in cells]) for element in range(D4))


def exact(*cells: Grid) -> bytes:
    """Digest of grids as they are."""
    return hashlib.sha256(b"".join(bytes(g.shape) + g.tobytes() for g in cells)).digest()


def _digest(cells: list[Grid]) -> bytes:
    flat = np.concatenate([grid.ravel() for grid in cells])
    colours, first = np.unique(flat, return_index=True)
    order = colours[np.argsort(first)]
    order = order[order > 0]
    renamed = np.zeros(COLOURS, dtype=np.uint8)
    renamed[order] = np.arange(1, len(order) + 1)
    return exact(*(renamed[grid] for grid in cells))
