"""One batch under fixed noise, for probes and validation."""

import torch
from torch import Tensor

from model.config.diffusion import SelfConditioning
from model.diffusion import self_conditioning
from model.diffusion.forward import add_noise
from model.diffusion.reverse import argmax_reverse_step, reverse_step
from model.diffusion.schedule import Levels
from model.network.denoiser import Denoiser, Encoded
from model.network.packing import Packed
from model.ops.keyed_random import uniform
from model.ops.random_purposes import ProbeDraw

_DRAWS = 64
"""Reverse steps, or blends, drawn of a batch: few of its cells move at one."""


class NoisedBatch:
    """One batch, noised once, and the logits of a network for it, without dropout."""

    def __init__(self, packed: Packed, table: Levels, conditioning: SelfConditioning, key: Tensor) -> None:
        self.packed, self.table, self.conditioning, self.key = packed, table, conditioning, key
        self.row = torch.arange(len(packed.target_colour), device=key.device)
        example = packed.target_example
        count = len(table.beta) - 1
        self.level = 1 + (uniform(key, ProbeDraw.LEVEL, example) * count).to(torch.int64)
        keep, replacement = uniform(key, ProbeDraw.KEEP, self.row), uniform(key, ProbeDraw.REPLACEMENT, self.row)
        self.noisy = add_noise(packed.target_colour.clamp(max=9), table.alpha_bar[self.level], keep, replacement)
        self.real = packed.target_real

    @torch.no_grad()
    def logits(self, network: Denoiser, features: Tensor | None = None, encoded: Encoded | None = None) -> Tensor:
        """Of the real cells, float (cells, 10). `encoded` spares encoding the contexts again."""
        return self._logits(network, features, encoded)[self.real]

    @torch.no_grad()
    def conditioned_logits(self, network: Denoiser) -> Tensor:
        """The same, conditioned on the network's own estimate."""
        return self._logits(network, self_conditioning.features(self.conditioning, self._logits(network, None)))[
            self.real
        ]

    @torch.no_grad()
    def moved(self, network: Denoiser) -> float:
        """Share of the real cells that a reverse step changes."""
        logits = self._logits(network, None)
        if self.conditioning.training == "argmax-reverse-step":
            moved = argmax_reverse_step(logits, self.noisy, self.level, self.table) != self.noisy
            return float(moved[self.real].float().mean())
        shares = [
            (reverse_step(logits, self.noisy, self.level, self.table, draw) != self.noisy)[self.real]
            for draw in (uniform(self.key, ProbeDraw.REVERSE_STEP, i, self.row) for i in range(_DRAWS))
        ]
        return float(torch.stack(shares).float().mean())

    @torch.no_grad()
    def blended(self, network: Denoiser) -> tuple[float, float]:
        """Shares of the real cells: those that a blend with the estimate changes before noise; those that are wrong."""
        logits, clean = self._logits(network, None), self.packed.target_colour.clamp(max=9)
        shares = []
        for i in range(_DRAWS):
            share = uniform(self.key, ProbeDraw.BLEND_SHARE, i, self.packed.target_example)
            mixed = self_conditioning.blend(logits, clean, share, uniform(self.key, ProbeDraw.BLEND_CELL, i, self.row))
            shares.append((mixed != clean)[self.real])
        wrong = (logits.argmax(-1) != clean)[self.real]
        return float(torch.stack(shares).float().mean()), float(wrong.float().mean())

    def _logits(self, network: Denoiser, features: Tensor | None, encoded: Encoded | None = None) -> Tensor:
        gain = self_conditioning.gain(self.conditioning, self.table.alpha_bar[self.level], 1.0)
        encoded = encoded or network.encode(self.packed)
        return network.denoise(self.packed, encoded, self.noisy, self.table.time[self.level], features, gain)
