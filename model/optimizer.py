"""AdamW, Muon beside it, and the learning rate at each step."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from model.configuration import Train


class Muon(Optimizer):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024), with the products batched over all layers.

    Each parameter is a stack of `pieces` matrices along its first dimension, such as the fused query, key and value.
    Updates are scaled by 0.2 sqrt(longer side), to the root mean square of AdamW's (Liu et al. 2025).
    torch.optim.Muon computes the same one matrix at a time, which doubles a step at width 384 (tests compare both).
    """

    def __init__(
        self, parameters: Iterable[tuple[nn.Parameter, int]], *, learning_rate: float, weight_decay: float
    ) -> None:
        groups: dict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter, pieces in parameters:
            groups[pieces].append(parameter)
        super().__init__(
            [{"params": members, "pieces": pieces} for pieces, members in groups.items()],
            {"lr": learning_rate, "weight_decay": weight_decay, "momentum": 0.95},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        stacks: dict[tuple[int, int], list[tuple[Tensor, bool]]] = defaultdict(list)
        targets: dict[tuple[int, int], list[tuple[Tensor, dict[str, Any]]]] = defaultdict(list)
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(state["momentum"], group["momentum"])
                for update, weight in zip(
                    nesterov.chunk(group["pieces"]), parameter.chunk(group["pieces"]), strict=True
                ):
                    wide = update.shape[0] > update.shape[1]
                    update = update.T if wide else update
                    stacks[tuple(update.shape)].append((update, wide))
                    targets[tuple(update.shape)].append((weight, group))
        for shape, updates in stacks.items():
            orthogonal = newton_schulz(torch.stack([update for update, _ in updates]))
            scale = 0.2 * math.sqrt(max(shape))
            for i, ((_, wide), (weight, group)) in enumerate(zip(updates, targets[shape], strict=True)):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal[i].T if wide else orthogonal[i], alpha=-group["lr"] * scale)


def newton_schulz(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors, (n, rows <= columns, columns), five turns."""
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    result: Tensor = x.to(matrices.dtype)
    return result


_PIECES = {"attention_in": 3, "feed_in": 2, "attention_out": 1, "feed_out": 1}


def optimizers(network: nn.Module, config: Train) -> list[Optimizer]:
    """AdamW on every parameter (version ledger 2.4), or Muon on the blocks' matrices and AdamW on the rest."""
    matrices = []
    rest = []
    for name, parameter in network.named_parameters():
        kind = name.split(".")[-2] if "." in name else ""
        if config.optimizer == "muon" and "blocks." in name and kind in _PIECES:
            matrices.append((parameter, _PIECES[kind]))
        else:
            rest.append(parameter)
    adamw = torch.optim.AdamW(
        rest,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=next(network.parameters()).is_cuda,
    )
    if not matrices:
        return [adamw]
    muon = Muon(matrices, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    return [muon, adamw]


def learning_rate(config: Train, step: int) -> float:
    """Of update `step`, counted from 0: linear warm-up from 1 % of the peak, then the schedule."""
    if step < config.warmup_steps:
        return config.learning_rate * (0.01 + 0.99 * step / config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, config.optimizer_steps - config.warmup_steps)
    share = {
        "constant": 1.0,
        "cosine": config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - (1 - config.final_rate) * done,
    }[config.schedule]
    return config.learning_rate * share


def exponential_moving_average(network: nn.Module, config: Train) -> AveragedModel:
    """torch's averaged copy; the decay rises linearly from 0.99 over ema_warmup_steps (version ledger 2.4)."""

    def update(averages: Any, currents: Any, updates: Tensor | int) -> None:
        share = min(1.0, int(updates) / max(1, config.ema_warmup_steps))
        decay = 0.99 + (config.ema_decay - 0.99) * share
        torch._foreach_lerp_(averages, currents, 1 - decay)

    return AveragedModel(network, multi_avg_fn=update)
