"""Whether every mechanism that is switched on acts: measured on one batch after a training, and an error where not."""

from typing import Any

import torch
from torch import Tensor

from model.network.denoiser import Denoiser
from model.training.lora import adapters
from model.training.noised_batch import NoisedBatch


def difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """Between logits (cells, 10): their mean absolute difference, and the share of cells with another answer."""
    return {
        "logits": float((a - b).abs().mean()),
        "likeliest": float((a.argmax(-1) != b.argmax(-1)).float().mean()),
    }


def probe(
    network: Denoiser, average: Denoiser, look: NoisedBatch, *, averaged: bool
) -> tuple[dict[str, Any], list[str]]:
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
