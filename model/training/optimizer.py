"""AdamW, Muon, NorMuon, the moving average, and the learning rate at each step."""

import copy
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.config.training import Train
from model.ops.compilation import maybe_compile


class Muon(Optimizer):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024), with the products batched over all layers.

    Each parameter is a stack of `pieces` matrices along its first dimension, such as the fused query, key and value.
    Updates are scaled by 0.2 sqrt(longer side), to the root mean square of AdamW's (Liu et al. 2025).
    torch.optim.Muon computes the same one matrix at a time, which doubles a step at width 384 (tests compare both).

    With `by_neuron` this is NorMuon (Li et al. 2025): each row of an orthogonalised matrix, a neuron, is divided by the
    root of the moving average of its mean square, and the whole is scaled back to the same root mean square.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, int]],
        *,
        learning_rate: float | Tensor,
        weight_decay: float,
        by_neuron: bool = False,
    ) -> None:
        groups: dict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter, pieces in parameters:
            groups[pieces].append(parameter)
        super().__init__(
            [{"params": members, "pieces": pieces} for pieces, members in groups.items()],
            {
                "lr": learning_rate,
                "weight_decay": weight_decay,
                "momentum": 0.95,
                "by_neuron": by_neuron,
                "second_momentum": 0.95,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                    if group["by_neuron"]:
                        self.state[parameter]["mean_square"] = torch.zeros_like(parameter[:, :1])
            momenta = [self.state[p]["momentum"] for p in parameters]
            gradients = [cast("Tensor", p.grad) for p in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
            squares = [self.state[p].get("mean_square", p[:, :1]) for p in parameters]
            stacks: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
            for parameter, update, square in zip(parameters, nesterov, squares, strict=True):
                pieces = (x.chunk(group["pieces"]) for x in (parameter, update, square))
                for weight, piece, neurons in zip(*pieces, strict=True):
                    stacks[weight.shape].append((weight, piece, neurons))
            for shape, parts in stacks.items():
                steps = newton_schulz(torch.stack([piece for _, piece, _ in parts]))
                if group["by_neuron"]:
                    steps = normalise_neurons(steps, [neurons for _, _, neurons in parts], group["second_momentum"])
                steps *= group["lr"] * (0.2 * math.sqrt(max(shape)))
                weights = [weight for weight, _, _ in parts]
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(weights, steps.unbind())


def newton_schulz(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors, (n, rows, columns), five turns."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    x = x.mT if tall else x  # The products are between the shorter sides.
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    result: Tensor = (x.mT if tall else x).to(matrices.dtype).contiguous()
    return result


def normalise_neurons(steps: Tensor, squares: list[Tensor], momentum: float) -> Tensor:
    """Divide each row of `steps` (n, rows, columns) by the root of the moving average of its mean square.

    `squares` are the averages, (rows, 1) for each matrix, and are updated in place. Each matrix is then scaled to the
    root mean square of an orthogonal one.
    """
    torch._foreach_lerp_(squares, steps.square().mean(-1, keepdim=True).unbind(), 1 - momentum)
    scaled = steps / (torch.stack(squares).sqrt() + 1e-10)
    rms = scaled.square().mean((-2, -1), keepdim=True).sqrt()
    return scaled / (rms.clamp(min=1e-10) * math.sqrt(max(steps.shape[1:])))


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

    Views start at multiples of 64 values, as kernels that read several at once want it.
    """
    ends = list(itertools.accumulate(-(-p.numel() // 64) * 64 for p in parameters))
    whole = torch.zeros(ends[-1], device=parameters[0].device)
    starts = [0, *ends[:-1]]
    parts = [whole[start : start + p.numel()].view_as(p) for start, p in zip(starts, parameters, strict=True)]
    if move:
        for part, parameter in zip(parts, parameters, strict=True):
            part.copy_(parameter.detach())
            parameter.data = part
    return whole, parts
