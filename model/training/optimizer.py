"""The optimizers of a training, the moving average, and the learning rate at each step."""

import copy
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.config.training import Train
from model.ops.compilation import maybe_compile
from model.training.muon import Muon

_PIECES = {"attention_in": 3, "feed_in": 2, "attention_out": 1, "feed_out": 1}


def optimizers(network: nn.Module, config: Train) -> list[Optimizer]:
    """AdamW on every parameter (version ledger 2.4), or Muon or NorMuon on the blocks' matrices and AdamW on the rest.

    On a GPU the rate is a tensor, so that graph replays see its updates; see `set_rate`.
    """
    matrices: list[tuple[nn.Parameter, int]] = []
    rest: list[tuple[str, nn.Parameter]] = []
    for name, parameter in network.named_parameters():
        kind = name.split(".")[-2] if "." in name else ""
        if not parameter.requires_grad:
            continue
        if config.optimizer.name != "adamw" and "blocks." in name and kind in _PIECES:
            matrices.append((parameter, _PIECES[kind]))
        else:
            rest.append((name, parameter))
    cuda = next(network.parameters()).is_cuda
    rate = torch.tensor(config.optimizer.learning_rate, device="cuda") if cuda else config.optimizer.learning_rate
    adamw = torch.optim.AdamW(decay_groups(rest, config), lr=rate, fused=True, capturable=cuda)
    if not matrices:
        return [adamw]
    decay, normalised = config.optimizer.weight_decay, config.optimizer.name == "normuon"
    return [Muon(matrices, learning_rate=rate, weight_decay=decay, by_neuron=normalised), adamw]


_TABLES = ("task_table", "conditioning_table", "input_cells", "output_cells")


def decay_groups(parameters: Iterable[tuple[str, nn.Parameter]], config: Train) -> list[dict[str, Any]]:
    """Parameter groups of AdamW from parameters by name: one for each weight decay that applies to some of them."""
    decay, of_tables = config.optimizer.weight_decay, config.optimizer.table_weight_decay
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in parameters:
        is_table = name.split(".")[0] in _TABLES or parameter.dim() < 2
        groups[of_tables if is_table and of_tables is not None else decay].append(parameter)
    return [{"params": members, "weight_decay": value} for value, members in groups.items()]


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate(config: Train, step: int) -> float:
    """Of update `step`, counted from 0: linear warm-up from 1 % of the peak, then the schedule."""
    if step < config.warmup_steps:
        return config.optimizer.learning_rate * (0.01 + 0.99 * step / config.warmup_steps)
    done = (step - config.warmup_steps) / max(1, config.optimizer_steps - config.warmup_steps)
    share = {
        "constant": 1.0,
        "cosine": config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - (1 - config.final_rate) * done,
    }[config.schedule]
    return config.optimizer.learning_rate * share


@functools.partial(maybe_compile, static=True)
def clip(gradient: Tensor, most: float) -> Tensor:
    """Scale all gradients, in one buffer, to a norm of `most` where it is larger, and return the norm before.

    As torch.nn.utils.clip_grad_norm_, in one piece.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient *= (most / (norm + 1e-6)).clamp(max=1)
    return norm


class Average:
    """Exponential moving average of a network (version ledger 2.4); decay is a tensor, so graph replays see updates.

    torch's AveragedModel counts its updates in Python, which a replayed step does not run.
    """

    def __init__(self, network: nn.Module, config: Train) -> None:
        """The parameters of `network` move into one buffer; they stay the same objects."""
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.config = config
        self.averages, self.currents = (buffer(list(n.parameters()), move=True)[0] for n in (self.module, network))
        self.weight = torch.ones((), device=self.averages.device)

    def set_weight(self, updates: int) -> None:
        """Weight of the next value after `updates` before it: all at first, then 1 - decay, which rises from 0.99."""
        share = min(1.0, updates / max(1, self.config.ema.warmup_steps))
        self.weight.fill_(1 - (0.99 + (self.config.ema.decay - 0.99) * share) if updates else 1.0)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the current values."""
        _average(self.averages, self.currents, self.weight)


@functools.partial(maybe_compile, static=True)
def _average(averages: Tensor, currents: Tensor, weight: Tensor) -> None:
    averages.lerp_(currents, weight)


def buffer(parameters: list[nn.Parameter], *, move: bool = False) -> tuple[Tensor, list[Tensor]]:
    """One buffer (all values,) with a view for each parameter: zeros, or with `move` their values and their new home.

    Views start at multiples of 64 values, as kernels that read several at once want it. Those of a shape follow each
    other, as Muon wants it.
    """
    order = sorted(range(len(parameters)), key=lambda i: tuple(parameters[i].shape))
    *starts, end = itertools.accumulate((-(-parameters[i].numel() // 64) * 64 for i in order), initial=0)
    whole = torch.zeros(end, device=parameters[0].device)
    begin = dict(zip(order, starts, strict=True))
    parts = [whole[begin[i] : begin[i] + p.numel()].view_as(p) for i, p in enumerate(parameters)]
    if move:
        for part, parameter in zip(parts, parameters, strict=True):
            part.copy_(parameter.detach())
            parameter.data = part
    return whole, parts
