"""Cross-entropy of the validation pairs during training, and early stopping by it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.config.diffusion import SelfConditioning
from model.config.network import Network
from model.config.training import EarlyStop
from model.diffusion.schedule import Levels
from model.network.denoiser import Denoiser, prefix_length
from model.network.device_data import first_rows, to_device
from model.network.packing import Packed, pack, pad_to_budget
from model.ops.keyed_random import hash_key
from model.ops.random_purposes import VALIDATION_STEP
from model.puzzles.arrays import Dataset
from model.training.noised_batch import NoisedBatch
from model.training.objective import size_loss

CROSS_ENTROPY = "validation_cross_entropy"
"""Its key in the history."""
_LAB_SIZE_WEIGHT = 0.1
_DRAWS = 4
"""Noises of every pair."""


class Validation:
    """Pairs with their outputs, unaugmented, under the same noise every time."""

    def __init__(
        self, dataset: Dataset, config: Network, conditioning: SelfConditioning, batch: int, table: Levels, seed: int
    ) -> None:
        """`batch` pairs are packed together."""
        if len(dataset.pairs) == 0 or (dataset.pairs.output_offset < 0).any():
            raise ValueError("validation needs pairs, each with its output")
        self.conditioning, self.table, self.seed = conditioning, table, seed
        device = table.beta.device
        held, prefix = to_device(dataset, config, device), prefix_length(config)
        p, first = dataset.pairs, first_rows(config, dataset.views)
        shapes = p.input_offset, p.input_height, p.input_width, p.output_offset, p.output_height, p.output_width
        rows = list(zip(first[p.task], dataset.views.start[p.task], *shapes, strict=True))
        self.batches: list[Packed] = []
        for start in range(0, len(rows), batch):
            filled, budget = pad_to_budget(rows[start : start + batch], prefix, None)
            self.batches.append(pack(torch.from_numpy(filled).to(device), held, prefix, budget))

    def cross_entropy(self, network: Denoiser) -> float:
        """Mean over the cells in nats, without self-conditioning. Draws nothing from torch's generator."""
        was = network.training
        network.eval()
        total: Tensor | float = 0.0
        for i, packed in enumerate(self.batches):
            clean = packed.target_colour[packed.target_real]
            for draw in range(_DRAWS):
                key = hash_key(torch.tensor(self.seed, device=clean.device), VALIDATION_STEP, i, draw)
                logits = NoisedBatch(packed, self.table, self.conditioning, key).logits(network)
                total = total + functional.cross_entropy(logits, clean, reduction="sum").double()
        network.train(was)
        return float(total) / (_DRAWS * sum(int(packed.target_real.sum()) for packed in self.batches))

    def loss(self, network: Denoiser) -> float:
        """The lab's validation loss: `cross_entropy` plus 0.1 of the mean cross-entropy of sizes (ledger, B7)."""
        total, grids = 0.0, 0
        for packed in self.batches:
            with torch.no_grad():
                logits = network.encode(packed).size_logits
                cross_entropy, _, count = size_loss(packed, logits, packed.examples.real > 0)
            total, grids = total + float(cross_entropy), grids + int(count)
        return self.cross_entropy(network) + _LAB_SIZE_WEIGHT * total / grids


def lowest(history: Sequence[Mapping[str, float]], config: EarlyStop) -> tuple[float, float]:
    """The update of the lowest cross-entropy so far, 0 before the first validation, and its value."""
    update, value = 0.0, np.inf
    for row in history:
        if row.get(CROSS_ENTROPY, np.inf) < value - config.improvement:
            update, value = row["step"], row[CROSS_ENTROPY]
    return update, value


def exhausted(history: Sequence[Mapping[str, float]], config: EarlyStop | None) -> bool:
    """Whether the patience has run out at the last row of the history."""
    if config is None or not history or CROSS_ENTROPY not in history[-1]:
        return False
    return history[-1]["step"] - lowest(history, config)[0] >= config.patience
