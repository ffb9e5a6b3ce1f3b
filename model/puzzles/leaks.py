"""Which evaluated pairs occur among training pairs, as they are or under a view."""

import hashlib

import numpy as np

from model.puzzles.arrays import Dataset
from model.puzzles.grids import COLOURS, Grid
from model.puzzles.symmetry import D4, transform


def canonical(*cells: Grid) -> bytes:
    """Digest of grids (an input with its output, or one alone) that is equal for all their views and for nothing else.

    Of the eight D4 images, with colours 1-9 renamed in the order of their first appearance (black stays), the least.
    """
    return min(_digest([transform(element, grid) for grid in cells]) for element in range(D4))


def exact(*cells: Grid) -> bytes:
    """Digest of grids as they are."""
    return hashlib.sha256(b"".join(bytes(g.shape) + g.tobytes() for g in cells)).digest()


def fingerprint(*cells: Grid) -> str:
    """The first 16 hexadecimal digits of `canonical`: enough to know a pair again, and short enough to keep."""
    return canonical(*cells).hex()[:16]


def fingerprints(dataset: Dataset) -> list[str]:
    """Of every pair of a dataset, whose outputs are known."""
    p = dataset.pairs

    def grid(offset: int, height: int, width: int) -> Grid:
        return dataset.cells[offset : offset + height * width].reshape(height, width)

    shapes = (p.input_offset, p.input_height, p.input_width), (p.output_offset, p.output_height, p.output_width)
    inputs, outputs = (zip(*(array.tolist() for array in shape), strict=True) for shape in shapes)
    return [fingerprint(grid(*given), grid(*answer)) for given, answer in zip(inputs, outputs, strict=True)]


def _digest(cells: list[Grid]) -> bytes:
    flat = np.concatenate([grid.ravel() for grid in cells])
    colours, first = np.unique(flat, return_index=True)
    order = colours[np.argsort(first)]
    order = order[order > 0]
    renamed = np.zeros(COLOURS, dtype=np.uint8)
    renamed[order] = np.arange(1, len(order) + 1)
    return exact(*(renamed[grid] for grid in cells))
