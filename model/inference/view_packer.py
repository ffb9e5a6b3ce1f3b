"""Test inputs under their views as packed batches for a network: rows, keys of the random draws, the way to run."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from model.config.evaluation import TaskRow
from model.diffusion.schedule import Levels, cosine_schedule, levels
from model.inference import transfers
from model.network.denoiser import Denoiser
from model.network.device_data import DeviceData, to_device
from model.network.packing import Packed, pack, pad_to_budget
from model.ops import compilation
from model.ops.keyed_random import hash_key
from model.puzzles.arrays import Dataset, Ints
from model.puzzles.grids import Size
from model.storage.checkpoints import Description


@dataclass(frozen=True)
class ViewPacker:
    """A checkpoint and a dataset whose pairs are test inputs."""

    network: Denoiser
    description: Description
    dataset: Dataset
    names: list[str]
    """Task ids by the dataset's task index."""
    seed: int
    device: torch.device

    def pack(self, rows: list[tuple[int, ...]]) -> Packed:
        """A batch of these rows of `row`, without padding."""
        table, budget = pad_to_budget(rows, self.network.prefix_length, None)
        table_there = transfers.send(torch.from_numpy(table), self.device)
        return pack(table_there, self.data, self.network.prefix_length, budget)

    def row(self, pair: int, view: int, size: Size, task_row: TaskRow) -> tuple[int, ...]:
        """Fields of `packing.Examples` without `real`, for an output of `size` with unknown cells."""
        p = self.dataset.pairs
        shape = (p.input_offset[pair], p.input_height[pair], p.input_width[pair], -1, *size)
        row = self.description.first_rows[p.task[pair]]
        if self._embeds_views(task_row):
            row += view
        return (row, self.view(pair, view), *(int(x) for x in shape))

    def available(self, task_row: TaskRow) -> Ints:
        """Views under which each pair can be asked, (pairs,): with an embedding a view, only those trained on."""
        task = self.dataset.pairs.task
        count = self.dataset.views.count[task]
        if not self._embeds_views(task_row):
            return count
        ends = [*self.description.first_rows[1:], self.description.task_rows]
        return np.minimum(count, np.subtract(ends, self.description.first_rows)[task])

    def _embeds_views(self, task_row: TaskRow) -> bool:
        return self.description.train.network.conditioning == "augmented-task" and task_row == "view"

    def length(self, pair: int, size: Size) -> int:
        """Rows that count towards the budget of a batch."""
        p = self.dataset.pairs
        context = int(p.input_height[pair] * p.input_width[pair]) + self.network.prefix_length
        return max(context, size[0] * size[1])

    def view(self, pair: int, view: int) -> int:
        """Row of the dataset's views."""
        return int(self.dataset.views.start[self.dataset.pairs.task[pair]]) + view

    def key(self, queries: Sequence[tuple[int, int, int]]) -> Tensor:
        """Keys of the draws for (pair, view, attempt), int64 (queries,), whatever else is asked."""
        numbers = self.dataset.pairs.task, self.dataset.pairs.number
        parts = [
            (zlib.crc32(self.names[numbers[0][pair]].encode()), int(numbers[1][pair]), view, attempt)
            for pair, view, attempt in queries
        ]
        return hash_key(self.seed, *transfers.send(torch.tensor(parts), self.device).T)

    @cached_property
    def data(self) -> DeviceData:
        """The dataset on the device."""
        return to_device(self.dataset, self.description.train.network, self.device)

    @cached_property
    def levels(self) -> Levels:
        """The noise levels of the training."""
        config = self.description.train
        return levels(cosine_schedule(config.noise), config.network.time_input, self.device)

    @contextmanager
    def fast(self) -> Iterator[None]:
        """On a GPU: bfloat16 and compiled functions."""
        kind, cuda = self.device.type, self.device.type == "cuda"
        with torch.autocast(kind, torch.bfloat16, enabled=cuda), compilation.set_enabled(cuda, dynamic=True):
            yield
