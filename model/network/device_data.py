"""The data set on the device: cells and views, for a whole run."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.config.experiment import Network
from model.puzzles import symmetry
from model.puzzles.arrays import Dataset, Ints, Views


class Corpus(NamedTuple):
    """What lies on the device."""

    cells: Tensor
    """uint8 (cells,): every grid, row-major, back to back."""
    view_geometry: Tensor
    """int64 (3, views): whether the view's D4 element swaps the axes, flips rows, flips columns."""
    view_colours: Tensor
    """int64 (views, 10): colour map."""
    view_tokens: Tensor
    """int64 (views, conditioning tokens): rows of the network's conditioning table."""


def first_rows(config: Network, views: Views) -> Ints:
    """Row of the task table of every task, (tasks,); under 'augmented-task' of its view 0, those of the others follow.

    `views` are those of the training.
    """
    return views.start if config.conditioning == "augmented-task" else np.arange(len(views.count))


def task_rows(config: Network, views: Views) -> int:
    """Length of the task table: a row for every task, or for every task and training view."""
    return len(views.element) if config.conditioning == "augmented-task" else len(views.count)


def corpus(dataset: Dataset, config: Network, device: torch.device) -> Corpus:
    """The arrays of `dataset` on the device, with the conditioning tokens of the network."""
    return Corpus(
        torch.tensor(dataset.cells, device=device),
        torch.tensor(geometry(dataset.views.element), device=device),
        torch.tensor(dataset.views.colours, dtype=torch.int64, device=device),
        torch.tensor(view_tokens(config, dataset.views), device=device),
    )


def geometry(element: Ints) -> Ints:
    """Axes swapped, rows flipped, columns flipped by each D4 element, (3, views)."""
    tables = (symmetry.SWAP, symmetry.FLIP_ROWS, symmetry.FLIP_COLUMNS)
    return np.stack([table[element] for table in tables]).astype(np.int64)


def view_tokens(config: Network, views: Views) -> Ints:
    """Rows of the conditioning table for every view, (views, conditioning tokens)."""
    if config.conditioning in ("task", "augmented-task"):
        return np.zeros((len(views.element), 0), dtype=np.int64)
    if config.conditioning == "d4":
        return views.element[:, None]
    if (views.colour_cycle < 0).any():
        raise ValueError(
            f"conditioning {config.conditioning!r} embeds the colour cycle, but the views hold free permutations; "
            "use conditioning 'd4' or 'task' with augment.scheme 'permutations'"
        )
    if config.conditioning == "d4-colour":
        return np.stack([views.element, 8 + views.colour_cycle], 1)
    # Flip, then rotation, as the lab's v1 and v2 had them, one pair an element: flip 0 none, 1 left-right; rotations
    # 0-3 clockwise. The lab drew several pairs of the same effect.
    rotation = np.array([0, 1, 2, 3, 0, 2, 3, 1])[views.element]
    flip = (views.element >= 4).astype(np.int64)
    return np.stack([rotation, 4 + flip, 8 + views.colour_cycle], 1)
