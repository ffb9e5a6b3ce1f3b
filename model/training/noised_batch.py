"""One batch under noise that is the same at every look, for probes and validation."""

import torch
from torch import Tensor

from model.config.diffusion import SelfConditioning
from model.diffusion import self_conditioning
from model.diffusion.forward import add_noise
from model.diffusion.reverse import reverse_step
from model.diffusion.schedule import Levels
from model.network.denoiser import Denoiser
from model.network.packing import Packed
from model.ops.keyed_random import uniform
from model.ops.random_purposes import ProbeDraw

_DRAWS = 64
"""Reverse steps, or blends, drawn of a batch: few of its cells move at one."""


class NoisedBatch:
    """One batch, noised once, and what a network says of it without dropout."""

    def __init__(self, packed: Packed, table: Levels, how: SelfConditioning, key: Tensor) -> None:
        self.packed, self.table, self.how, self.key = packed, table, how, key
        self.row = torch.arange(len(packed.target_colour), device=key.device)
        example = packed.target_example
        count = len(table.beta) - 1
        self.level = 1 + (uniform(key, ProbeDraw.LEVEL, example) * count).to(torch.int64)
        keep, replacement = uniform(key, ProbeDraw.KEEP, self.row), uniform(key, ProbeDraw.REPLACEMENT, self.row)
        self.noisy = add_noise(packed.target_colour.clamp(max=9), table.alpha_bar[self.level], keep, replacement)
        self.real = packed.target_real

    @torch.no_grad()
    def logits(self, network: Denoiser, features: Tensor | None = None) -> Tensor:
        """Of the real cells, float (cells, 10)."""
        return self._all(network, features)[self.real]

    @torch.no_grad()
    def told(self, network: Denoiser) -> Tensor:
        """The same when the network is told of its own estimate."""
        return self._all(network, self_conditioning.features(self.how, self._all(network, None)))[self.real]

    @torch.no_grad()
    def moved(self, network: Denoiser) -> float:
        """Share of the real cells that a reverse step changes."""
        logits = self._all(network, None)
        shares = [
            (reverse_step(logits, self.noisy, self.level, self.table, draw) != self.noisy)[self.real]
            for draw in (uniform(self.key, ProbeDraw.REVERSE_STEP, i, self.row) for i in range(_DRAWS))
        ]
        return float(torch.stack(shares).float().mean())

    @torch.no_grad()
    def blended(self, network: Denoiser) -> float:
        """Share of the real cells that a blend with the estimate changes, before they are noised anew."""
        logits, clean = self._all(network, None), self.packed.target_colour.clamp(max=9)
        shares = []
        for i in range(_DRAWS):
            share = uniform(self.key, ProbeDraw.BLEND_SHARE, i, self.packed.target_example)
            mixed = self_conditioning.blend(logits, clean, share, uniform(self.key, ProbeDraw.BLEND_CELL, i, self.row))
            shares.append((mixed != clean)[self.real])
        return float(torch.stack(shares).float().mean())

    def _all(self, network: Denoiser, features: Tensor | None) -> Tensor:
        gain = self_conditioning.gain(self.how, self.table.alpha_bar[self.level], 1.0)
        encoded = network.encode(self.packed)
        return network.denoise(self.packed, encoded, self.noisy, self.table.time[self.level], features, gain)
