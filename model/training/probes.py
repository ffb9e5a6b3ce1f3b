"""Whether every mechanism that is switched on acts: measured on one batch after a training, and an error where not.

The lab's argmax reverse step is known to do nothing: it is measured, and a warning says so.
"""

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
    network: Denoiser, average: Denoiser, batch: NoisedBatch, *, averaged: bool
) -> tuple[dict[str, Any], list[str]]:
    """What each mechanism does, by name, and those that are on and do nothing.

    `averaged`: the average is what is evaluated.
    """
    network.eval()
    average.eval()
    evaluated = average if averaged else network
    effects: dict[str, Any] = {}
    idle = []
    if averaged:
        effects["ema"] = difference(batch.logits(average), batch.logits(network))
        if effects["ema"]["logits"] == 0:
            idle.append("train.evaluated_weights: ema (the averaged weights answer as the raw ones do)")
    if batch.conditioning.features != "none":
        effects["self_conditioning"] = difference(batch.conditioned_logits(evaluated), batch.logits(evaluated))
        if effects["self_conditioning"]["logits"] == 0:
            idle.append("train.self_conditioning.features (conditioning does not change the logits)")
    if batch.conditioning.reverses:
        effects["reverse_step"] = {"cells_moved": batch.moved(evaluated)}
        if effects["reverse_step"]["cells_moved"] == 0 and batch.conditioning.training == "reverse-step":
            idle.append("train.self_conditioning.training: reverse-step (no cell moves)")
    if batch.conditioning.training == "blend" and batch.conditioning.rate > 0:
        moved, wrong = batch.blended(evaluated)
        effects["blend"] = {"cells_moved": moved}
        if moved == 0 and wrong > 0:  # A network that has learned every cell has nothing to blend in.
            idle.append("train.self_conditioning.training: blend (no cell of the truth is replaced)")
    return effects, idle


def adapter_gradients(network: Denoiser, value: Tensor) -> tuple[dict[str, float], list[str]]:
    """Norm of every adapter's part of the gradient of a loss, and the adapters that have none."""
    effects = {}
    for name, adapter in adapters(network).items():
        gradients = torch.autograd.grad(value, list(adapter.parameters()), retain_graph=True, allow_unused=True)
        effects[name] = float(sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5)
    return effects, [f"the adapter of {name} (it has no gradient)" for name, norm in effects.items() if norm == 0]
