"""The data set on the device: cells and views, moved once for a whole run."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.config.network import Network
from model.puzzles import symmetry
from model.puzzles.arrays import Dataset, Ints, Views


class DeviceData(NamedTuple):
    """Cells and views of a data set as tensors on one device."""

    cells: Tensor
    """uint8 (cells,): all grids, each row-major, concatenated."""
    view_geometry: Tensor
    """int64 (3, views): whether the view's D4 element swaps the axes, flips rows, flips columns."""
    view_colours: Tensor
    """int64 (views, 10): the colour that a view shows for each colour."""
    view_tokens: Tensor
    """int64 (views, conditioning tokens): rows of the network's conditioning table."""


def first_rows(config: Network, views: Views) -> Ints:
    """The first row of each task in the task table, int64 (tasks,).

    Under conditioning 'augmented-task' it belongs to the task's view 0 and the rows of its other views follow. `views`
    are the training views.
    """
    return views.start if config.conditioning == "augmented-task" else np.arange(len(views.count))


def task_rows(config: Network, views: Views) -> int:
    """Number of rows of the task table: one a task, or one a training view under conditioning 'augmented-task'."""
    return len(views.element) if config.conditioning == "augmented-task" else len(views.count)


def to_device(dataset: Dataset, config: Network, device: torch.device) -> DeviceData:
    """Copy `dataset` to `device`, with the conditioning tokens that the network expects for each view."""
    return DeviceData(
        torch.tensor(dataset.cells, device=device),
        torch.tensor(geometry(dataset.views.element), device=device),
        torch.tensor(dataset.views.colours, dtype=torch.int64, device=device),
        torch.tensor(view_tokens(config, dataset.views), device=device),
    )


def geometry(element: Ints) -> Ints:
    """Whether each D4 element, int (views,), swaps the axes, flips rows, flips columns: int64 0 or 1, (3, views)."""
    tables = (symmetry.SWAP, symmetry.FLIP_ROWS, symmetry.FLIP_COLUMNS)
    return np.stack([table[element] for table in tables]).astype(np.int64)


def view_tokens(config: Network, views: Views) -> Ints:
    """Rows of the conditioning table for each view, int64 (views, conditioning tokens).

    Raises ValueError where the conditioning embeds a cycle of colours but the views permute them freely.
    """
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
    # A flip (0 none, 1 left-right), then 0-3 clockwise rotations, as in the lab's v1 and v2; one pair for each D4
    # element, where the lab also drew other pairs with the same effect.
    rotation = np.array([0, 1, 2, 3, 0, 2, 3, 1])[views.element]
    flip = (views.element >= 4).astype(np.int64)
    return np.stack([rotation, 4 + flip, 8 + views.colour_cycle], 1)
