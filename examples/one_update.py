"""One training update from Python: a made-up task, a tiny denoiser, the loss before and after.

python examples/one_update.py
"""

import numpy as np
import torch

from model.config.training import Train
from model.puzzles.arrays import Dataset, Pairs, Views
from model.training.trainer import Training
from tasks.common import params, paths


def mirrored_pairs(count: int, side: int, seed: int) -> Dataset:
    """One task of `count` pairs: random grids, side x side, and their left-right mirror images; one view."""
    inputs = np.random.default_rng(seed).integers(0, 10, (count, side, side), dtype=np.uint8)
    cells = np.stack([inputs, inputs[:, :, ::-1]], axis=1).ravel()
    sides, offsets = np.full(count, side), np.arange(count) * 2 * side * side
    zero, identity = np.zeros(1, dtype=np.int64), np.arange(10, dtype=np.uint8)[None]
    pairs = Pairs(
        np.zeros(count, dtype=np.int64), np.arange(count), offsets, sides, sides, offsets + side**2, sides, sides
    )
    return Dataset(cells, pairs, Views(zero, zero + 1, zero, identity, zero))


def tiny_config() -> Train:
    """The training section of the preset v3/tiny/aa1-6x6, without dropout or self-conditioning."""
    off = {
        "network": {"dropout": 0.0, "embedding_dropout": 0.0, "input_grid_dropout": 0.0},
        "self_conditioning": {"features": "none", "rate": 0.0, "null_conditioning_rate": 0.0},
        "warmup_steps": 0,
    }
    names = {"version": "v3", "size": "tiny", "dataset": "aa1-6x6", "train": off}
    return params.resolve(names, params.read(paths.PRESETS)).train


def main() -> tuple[float, float]:
    """Make one update and return the loss of the same batch before and after it."""
    dataset = mirrored_pairs(count=64, side=4, seed=0)
    training = Training(dataset, np.ones(64), 1, tiny_config(), seed=0, device=torch.device("cpu"))
    batch = next(training.stream.batches())
    losses = []
    for _ in range(2):
        training.step = 0  # The same step draws the same noise, so that only the weights differ.
        training.sums.zero_()
        training.update([batch])
        losses.append(float(training.sums[0]))
    print(f"loss {losses[0]:.4f} before the update, {losses[1]:.4f} after it")
    return losses[0], losses[1]


if __name__ == "__main__":
    main()
