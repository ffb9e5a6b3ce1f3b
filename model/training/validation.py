"""How a training does on held-out pairs: measured now and then while it trains, and early stopping by it.

A measurement draws nothing from torch's generators and changes no weight: its noise is a function of the seed and of
train.batch, so that measurements at different updates differ by the weights alone, also after a resumption.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.config.training import EarlyStop, Train
from model.diffusion.schedule import Levels
from model.network.denoiser import Denoiser, prefix_length
from model.network.device_data import first_rows, to_device
from model.network.packing import Packed, pack, pad_to_budget
from model.ops.keyed_random import hash_key
from model.ops.random_purposes import VALIDATION_STEP
from model.puzzles.arrays import Dataset
from model.puzzles.grids import COLOURS
from model.training.noised_batch import NoisedBatch
from model.training.objective import BUCKETS, size_loss

PREFIX = "validation_"
"""Keys of the history that begin with it are of held-out pairs; the rest of the key is as for the training."""
CROSS_ENTROPY = f"{PREFIX}cross_entropy"
ACCURACY = f"{PREFIX}accuracy"
_DRAWS = 4
"""Noises of every pair."""


class Validation:
    """Pairs with their outputs, unaugmented, under the same noise every time."""

    def __init__(self, dataset: Dataset, config: Train, table: Levels, seed: int) -> None:
        """At most config.validation.pairs of the dataset's pairs, packed config.batch together."""
        pairs = dataset.pairs
        if len(pairs) == 0 or (pairs.output_offset < 0).any():
            raise ValueError("validation needs pairs, each with its output")
        if len(pairs) > config.validation.pairs:
            pairs = pairs.rows(np.linspace(0, len(pairs) - 1, config.validation.pairs).round().astype(np.int64))
        self.size_loss_weight, self.levels = config.size_loss_weight, len(table.beta)
        device, network = table.beta.device, config.network
        held, prefix = to_device(dataset, network, device), prefix_length(network)
        first, views = first_rows(network, dataset.views), dataset.views.start
        inputs = pairs.input_offset, pairs.input_height, pairs.input_width
        outputs = pairs.output_offset, pairs.output_height, pairs.output_width
        rows = list(zip(first[pairs.task], views[pairs.task], *inputs, *outputs, strict=True))
        self.batches: list[tuple[Packed, list[NoisedBatch]]] = []
        for i, start in enumerate(range(0, len(rows), config.batch)):
            filled, budget = pad_to_budget(rows[start : start + config.batch], prefix, None)
            packed = pack(torch.from_numpy(filled).to(device), held, prefix, budget)
            keys = [hash_key(torch.tensor(seed, device=device), VALIDATION_STEP, i, draw) for draw in range(_DRAWS)]
            self.batches.append((packed, [NoisedBatch(packed, table, config.self_conditioning, key) for key in keys]))

    @torch.no_grad()
    def measure(self, network: Denoiser) -> dict[str, float]:
        """Means over cells and grids under the history's keys, without self-conditioning; the device waits once.

        Cross-entropies are in nats, accuracies 0..1; of a bucket of noise levels without cells both are 0.
        """
        was = network.training
        network.eval()
        cells = torch.zeros(BUCKETS, 3, dtype=torch.float64, device=self.batches[0][0].target_colour.device)
        grids = torch.zeros(3, dtype=torch.float64, device=cells.device)
        for packed, noises in self.batches:
            encoded = network.encode(packed)
            grids += _sizes(packed, encoded.size_logits)
            clean = packed.target_colour[packed.target_real].clamp(max=COLOURS - 1)
            for noised in noises:
                logits = noised.logits(network, None, encoded)
                loss = functional.cross_entropy(logits, clean, reduction="none").double()
                right = (logits.argmax(-1) == clean).double()
                bucket = (noised.level[noised.real] * BUCKETS).div(self.levels, rounding_mode="floor")
                by_bucket = functional.one_hot(bucket, BUCKETS).double().T
                cells += by_bucket @ torch.stack([torch.ones_like(loss), loss, right], -1)
        network.train(was)
        sums, (count, size_loss, size_right) = cells.tolist(), grids.tolist()
        total, loss_sum, right_sum = (sum(column) for column in zip(*sums, strict=True))
        measured = {
            "loss": loss_sum / total + self.size_loss_weight * size_loss / count,
            "cross_entropy": loss_sum / total,
            "accuracy": right_sum / total,
            "size_cross_entropy": size_loss / count,
            "size_accuracy": size_right / count,
        }
        for i, (n, bucket_loss, bucket_right) in enumerate(sums):
            measured |= {f"cross_entropy_{i}": bucket_loss / max(1.0, n), f"accuracy_{i}": bucket_right / max(1.0, n)}
        return {f"{PREFIX}{name}": value for name, value in measured.items()}


def _sizes(packed: Packed, logits: Tensor) -> Tensor:
    """Grids, the sum of the cross-entropies of their heights and widths, and sizes right, float64 (3,)."""
    every = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    loss, right, grids = size_loss(packed, logits, every)
    return torch.stack([grids.double(), loss.double(), right.double()])


def due(config: Train, last: int, step: int) -> bool:
    """Whether the history's row after update `step` has a measurement, when the row before was after update `last`."""
    every, stop = config.validation.every, config.early_stop
    regular = step // every > last // every or step == config.optimizer_steps
    return regular or (stop is not None and step % stop.every == 0)


def lowest(history: Sequence[Mapping[str, float]], config: EarlyStop) -> tuple[float, float]:
    """The update of the lowest cross-entropy so far, 0 before the first one of early stopping, and its value."""
    update, value = 0.0, np.inf
    for row in history:
        if _counts(row, config) and row[CROSS_ENTROPY] < value - config.improvement:
            update, value = row["step"], row[CROSS_ENTROPY]
    return update, value


def exhausted(history: Sequence[Mapping[str, float]], config: EarlyStop | None) -> bool:
    """Whether the patience has run out at the last row of the history."""
    if config is None or not history or not _counts(history[-1], config):
        return False
    return history[-1]["step"] - lowest(history, config)[0] >= config.patience


def _counts(row: Mapping[str, float], config: EarlyStop) -> bool:
    """Whether the row is one by which early stopping decides: other measurements do not move its decisions."""
    return CROSS_ENTROPY in row and row["step"] % config.every == 0
