"""Sizes of an answer that all demonstrations explain by quantities of their inputs.

A rule is a quantity (model/inference/quantities.py), its two values in order or exchanged, times a small factor, plus a
small number. It holds where it gives the size of every demonstration's output. Many rules hold by chance; those that
agree on the size for the test input add up, simple ones count more.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.inference.quantities import quantities
from model.puzzles.grids import LARGEST_SIDE, Grid, Size

_MAPS = sorted(
    itertools.product([(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (1, 2), (1, 3)], [0, -2, 2, -1, 1, -3, -4, 3]),
    key=lambda m: (m != ((1, 1), 0), abs(m[0][0] / m[0][1] - 1) + 0.4 * abs(m[1])),
)
"""((multiplier, divisor), offset), the simplest first."""
_DECAY = 0.8
"""Of a rule's weight from one map to the next."""
_EXCHANGED = 6
"""Maps by which exchanged values count less."""
_ONE_SIDE = 0.15 * _DECAY**3
"""Weight of two rules, one for each side, against one for both."""


def measured_sizes(demonstrations: Sequence[tuple[Grid, Grid]], given: Grid) -> list[Size]:
    """(height, width) of the output for the input `given`, the best explained first; [] where no rule holds.

    `demonstrations` are two or more pairs (input, output); one alone shows nothing.
    """
    if len(demonstrations) < 2:
        return []
    inputs, outputs = zip(*demonstrations, strict=True)
    known, test = [quantities(grid) for grid in inputs], quantities(given)
    names = [name for name in test if all(name in measured for measured in known)]
    shapes = np.array([grid.shape for grid in outputs])
    values = np.array([[measured[name] for name in names] for measured in known])
    here = np.array([test[name] for name in names])
    weights: defaultdict[Size, float] = defaultdict(float)
    sides: list[defaultdict[int, float]] = [defaultdict(float), defaultdict(float)]
    for axis in (0, 1):
        constant = set(shapes[:, axis].tolist())
        if len(constant) == 1:
            sides[axis][constant.pop()] += 1 / _DECAY**3
    for number, ((factor, divisor), offset) in enumerate(_MAPS):
        for exchanged in (False, True):
            order = slice(None, None, -1 if exchanged else 1)
            weight = _DECAY ** (number + _EXCHANGED * exchanged)
            holds = (values[:, :, order] * factor + offset * divisor == shapes[:, None] * divisor).all(0)
            mapped, possible = _sides(here[:, order] * factor, divisor, offset)
            holds &= possible
            for size in mapped[holds.all(1)].tolist():
                weights[size[0], size[1]] += weight
            for axis in (0, 1):
                for side in mapped[holds[:, axis], axis].tolist():
                    sides[axis][side] += weight
    for (height, down), (width, across) in itertools.product(*(side.items() for side in sides)):
        weights[height, width] += _ONE_SIDE * min(down, across)
    return sorted(weights, key=lambda size: -weights[size])


def _sides(products: NDArray[np.int64], divisor: int, offset: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """products / divisor + offset, and whether that is a side of a grid."""
    sides = products // divisor + offset
    return sides, (products % divisor == 0) & (sides >= 1) & (sides <= LARGEST_SIDE)
