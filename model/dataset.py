"""The prepared arrays a training or a prediction works on: pairs, views and the order of tasks."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.configuration import Network
from model.packing import Corpus

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """One row a pair; all (pairs,). Offsets point into the cells; -1 where the output is not known."""

    task: Ints
    """Index into the task list."""
    number: Ints
    """Which pair or test input of its task."""
    input_offset: Ints
    input_height: Ints
    input_width: Ints
    output_offset: Ints
    output_height: Ints
    output_width: Ints

    def rows(self, which: Ints) -> "Pairs":
        """The pairs at these rows."""
        return Pairs(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    def __len__(self) -> int:
        return len(self.task)


@dataclass(frozen=True)
class Views:
    """The views of every task, in blocks: task i has rows start[i] ... start[i] + count[i] - 1, identity first."""

    start: Ints
    count: Ints
    """(tasks,) each."""
    element: Ints
    """(views,) D4."""
    colours: NDArray[np.uint8]
    """(views, 10) colour maps."""
    colour_cycle: Ints
    """(views,) 0..8, or -1 where the map is no cycle."""


@dataclass(frozen=True)
class Dataset:
    """Cells, pairs and views that belong together."""

    cells: NDArray[np.uint8]
    pairs: Pairs
    views: Views

    def corpus(self, config: Network, device: torch.device) -> Corpus:
        """The arrays on the device."""
        return Corpus(
            torch.tensor(self.cells).to(device),
            torch.tensor(self.views.element, device=device),
            torch.tensor(self.views.colours, dtype=torch.int64, device=device),
            torch.from_numpy(view_tokens(config, self.views)).to(device),
        )


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
    # Rotation then flip as the lab's v1 and v2 had them: rotations 0-3, flip 0 none, 1 left-right (after the rotation).
    rotation = np.array([0, 1, 2, 3, 0, 2, 3, 1])[views.element]
    flip = (views.element >= 4).astype(np.int64)
    return np.stack([rotation, 4 + flip, 8 + views.colour_cycle], 1)
