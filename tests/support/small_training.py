"""A training of seconds on random grids, for tests that look at the training itself."""

from dataclasses import replace

import numpy as np
import torch

from model.config.training import Train
from model.puzzles.arrays import Dataset, Pairs, Views
from model.training.trainer import Stopped, Training


def dataset() -> Dataset:
    """Six tasks of small random grids with all eight D4 views."""
    draws = np.random.default_rng(1)
    sides = draws.integers(1, 6, size=(18, 4))
    offset = np.arange(18) * 50
    pairs = Pairs(np.arange(18) // 3, np.arange(18) % 3, offset, *sides.T[:2], offset + 25, *sides.T[2:])
    views = Views(
        np.arange(6) * 8,
        np.full(6, 8),
        np.tile(np.arange(8), 6),
        np.tile(np.arange(10, dtype=np.uint8), (48, 1)),
        np.zeros(48, int),
    )
    return Dataset(draws.integers(0, 10, 950).astype(np.uint8), pairs, views)


def held_out() -> Dataset:
    """One pair of every task, with other cells than the training's."""
    data = dataset()
    cells = np.random.default_rng(9).integers(0, 10, len(data.cells)).astype(np.uint8)
    return replace(data, cells=cells, pairs=data.pairs.rows(np.arange(6) * 3))


def training(config: Train, seed: int = 0, validation: Dataset | None = None) -> Training:
    """A deterministic training of that data on the CPU."""
    torch.use_deterministic_algorithms(True)
    return Training(dataset(), np.ones(18), 6, config, seed, torch.device("cpu"), None, validation)


def run(subject: Training, until: int | None = None) -> Training:
    """Train to the end, or stop after update `until`."""
    try:
        subject.run(
            on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=lambda: subject.step == until
        )
    except Stopped:
        assert subject.step == until
    return subject
