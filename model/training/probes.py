"""Whether every mechanism that is switched on acts: measured on one batch after a training, and an error where not."""

from typing import Any

import torch
from torch import Tensor

from model.config.mechanisms import SelfConditioning
from model.diffusion import self_conditioning
from model.diffusion.schedule import add_noise
from model.network.denoiser import Denoiser
from model.network.lora import adapters
from model.network.packing import Packed
from model.ops.keyed_random import uniform
from model.training import objective
from model.training.objective import Levels

_LEVEL, _KEEP, _REPLACEMENT, _REVERSE, _BLEND, _BLEND_CELL = range(100, 106)
_DRAWS = 64
"""Reverse steps, or blends, drawn of a batch: few of its cells move at one."""


class Look:
    """One batch, noised once, and what a network says of it without dropout."""

    def __init__(self, packed: Packed, table: Levels, how: SelfConditioning, key: Tensor) -> None:
        self.packed, self.table, self.how, self.key = packed, table, how, key
        self.row = torch.arange(len(packed.target_colour), device=key.device)
        example = packed.target_example
        count = len(table.beta) - 1
        self.level = 1 + (uniform(key, _LEVEL, example) * count).to(torch.int64)
        keep, replacement = uniform(key, _KEEP, self.row), uniform(key, _REPLACEMENT, self.row)
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
            (objective.reverse_step(logits, self.noisy, self.level, self.table, draw) != self.noisy)[self.real]
            for draw in (uniform(self.key, _REVERSE, i, self.row) for i in range(_DRAWS))
        ]
        return float(torch.stack(shares).float().mean())

    @torch.no_grad()
    def blended(self, network: Denoiser) -> float:
        """Share of the real cells that a blend with the estimate changes, before they are noised anew."""
        logits, clean = self._all(network, None), self.packed.target_colour.clamp(max=9)
        shares = []
        for i in range(_DRAWS):
            share = uniform(self.key, _BLEND, i, self.packed.target_example)
            mixed = objective.blend(logits, clean, share, uniform(self.key, _BLEND_CELL, i, self.row))
            shares.append((mixed != clean)[self.real])
        return float(torch.stack(shares).float().mean())

    def _all(self, network: Denoiser, features: Tensor | None) -> Tensor:
        gain = self_conditioning.gain(self.how, self.table.alpha_bar[self.level], 1.0)
        encoded = network.encode(self.packed)
        return network.denoise(self.packed, encoded, self.noisy, self.table.time[self.level], features, gain)


def difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """Between logits (cells, 10): their mean absolute difference, and the share of cells with another answer."""
    return {
        "logits": float((a - b).abs().mean()),
        "likeliest": float((a.argmax(-1) != b.argmax(-1)).float().mean()),
    }


def probe(network: Denoiser, average: Denoiser, look: Look, *, averaged: bool) -> tuple[dict[str, Any], list[str]]:
    """What each mechanism does, by name, and those that are on and do nothing.

    `averaged`: the average is what is evaluated.
    """
    network.eval()
    average.eval()
    evaluated = average if averaged else network
    found: dict[str, Any] = {}
    idle = []
    if averaged:
        found["ema"] = difference(look.logits(average), look.logits(network))
        if found["ema"]["logits"] == 0:
            idle.append("train.evaluated_weights: ema (the averaged weights answer as the raw ones do)")
    if look.how.features != "none":
        found["self_conditioning"] = difference(look.told(evaluated), look.logits(evaluated))
        if found["self_conditioning"]["logits"] == 0:
            idle.append("train.self_conditioning.features (what the network is told does not change its logits)")
    if look.how.training == "reverse-step":
        found["reverse_step"] = {"cells_moved": look.moved(evaluated)}
        if found["reverse_step"]["cells_moved"] == 0:
            idle.append("train.self_conditioning.training: reverse-step (no cell moves)")
    if look.how.training == "blend" and look.how.rate > 0:
        found["blend"] = {"cells_moved": look.blended(evaluated)}
        if found["blend"]["cells_moved"] == 0:
            idle.append("train.self_conditioning.training: blend (no cell of the truth is replaced)")
    return found, idle


def adapter_gradients(network: Denoiser, value: Tensor) -> tuple[dict[str, float], list[str]]:
    """Norm of every adapter's part of the gradient of a loss, and the adapters that have none."""
    found = {}
    for name, adapter in adapters(network).items():
        gradients = torch.autograd.grad(value, list(adapter.parameters()), retain_graph=True, allow_unused=True)
        found[name] = float(sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5)
    return found, [f"the adapter of {name} (it has no gradient)" for name, norm in found.items() if norm == 0]
