"""Muon and NorMuon: steps of matrices made orthogonal, with all matrices of a shape in one batch."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.ops.compilation import maybe_compile
from model.ops.cuda_graph import concurrently


class Muon(Optimizer):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024), with the products batched over all layers.

    Each parameter is a stack of `pieces` matrices along its first dimension, such as the fused query, key and value.
    Those of a shape must lie at even distances in memory, and so must their gradients, as `buffer` lays them out: then
    they are one tensor, without copies. Updates are scaled by 0.2 sqrt(longer side), to the root mean square of AdamW's
    (Liu et al. 2025). torch.optim.Muon computes the same one matrix at a time (tests compare both).

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
        for group in self.param_groups:
            for members in _by_shape(group["params"]):
                zeros = torch.zeros((len(members), *members[0].shape), device=members[0].device)
                self._keep("momentum", members, zeros)
                if by_neuron:
                    self._keep("mean_square", members, torch.zeros_like(zeros[..., :1]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer; what is loaded is laid out evenly again."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for members in _by_shape(group["params"]):
                for name in list(self.state[members[0]]):
                    self._keep(name, members, torch.stack([self.state[p][name] for p in members]))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter; each needs a gradient."""
        groups = [(group, members) for group in self.param_groups for members in _by_shape(group["params"])]
        device = groups[0][1][0].device
        concurrently(device, [functools.partial(self._step, group, members) for group, members in groups])

    def _step(self, group: dict[str, Any], members: list[nn.Parameter]) -> None:
        """One update of all parameters of a shape."""
        kept = [self.state[p] for p in members]
        weights = stacked(list(members), group["pieces"])
        gradients = stacked([cast("Tensor", p.grad) for p in members], group["pieces"])
        momenta = stacked([state["momentum"] for state in kept], group["pieces"])
        steps = newton_schulz(_nesterov(gradients, momenta, group["momentum"]).flatten(0, 1)).view(weights.shape)
        rate = group["lr"] * 0.2 * math.sqrt(max(weights.shape[-2:]))
        if group["by_neuron"]:
            squares = stacked([state["mean_square"] for state in kept], group["pieces"])
            scale = _neuron_scale(steps, squares, group["second_momentum"])
            _descend(weights, steps, rate, group["lr"] * group["weight_decay"], scale)
        else:
            _descend(weights, steps, rate, group["lr"] * group["weight_decay"], None)

    def _keep(self, name: str, members: list[nn.Parameter], whole: Tensor) -> None:
        for parameter, part in zip(members, whole, strict=True):
            self.state[parameter][name] = part


def _by_shape(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    result: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        result[parameter.shape].append(parameter)
    return list(result.values())


def stacked(tensors: list[Tensor], pieces: int) -> Tensor:
    """Tensors (pieces * rows, columns) that lie evenly spaced in one buffer as a view (n, pieces, rows, columns).

    Raises ValueError where they do not.
    """
    first = tensors[0]
    size, starts = first.element_size(), [t.data_ptr() for t in tensors]
    distance = starts[1] - starts[0] if len(starts) > 1 else first.numel() * size
    even = all(start == starts[0] + i * distance for i, start in enumerate(starts))
    buffers = {t.untyped_storage().data_ptr() for t in tensors}
    if distance <= 0 or not even or len(buffers) > 1 or not all(t.is_contiguous() for t in tensors):
        raise ValueError(
            f"{len(tensors)} matrices {tuple(first.shape)} of Muon do not lie evenly spaced in memory; "
            "lay parameters and gradients out by `buffer`"
        )
    rows, columns = first.shape[0] // pieces, first.shape[1]
    strides = distance // size, rows * columns, columns, 1
    return first.detach().as_strided((len(tensors), pieces, rows, columns), strides)


@functools.partial(maybe_compile, static=True)
def _nesterov(gradients: Tensor, momenta: Tensor, momentum: float) -> Tensor:
    """Move the momenta, and return the gradients moved on by them, in bfloat16 on a GPU."""
    momenta.lerp_(gradients, 1 - momentum)
    result = gradients.lerp(momenta, momentum)
    return result.to(torch.bfloat16 if result.is_cuda else result.dtype)


def newton_schulz(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors, (n, rows, columns), five turns."""
    x = _normalised(matrices)
    for _ in range(5):  # The products are between the shorter sides.
        tall = x.shape[1] > x.shape[2]
        a = x.mT @ x if tall else x @ x.mT
        b = _polynomial(a, a @ a)
        x = x @ b if tall else b @ x
    return x


@functools.partial(maybe_compile, static=True)
def _normalised(matrices: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    return matrices / norms.clamp(min=1e-7)


@functools.partial(maybe_compile, static=True)
def _polynomial(a: Tensor, squared: Tensor) -> Tensor:
    """Of matrices a (n, side, side): 3.4445 - 4.775 a + 2.0315 a^2."""
    k = torch.arange(a.shape[-1], device=a.device)
    result: Tensor = torch.where(k[:, None] == k, 3.4445, 0.0) - 4.7750 * a.float() + 2.0315 * squared.float()
    return result.to(a.dtype)


@functools.partial(maybe_compile, static=True)
def _neuron_scale(steps: Tensor, squares: Tensor, momentum: float) -> Tensor:
    """Move the averages of the rows' mean squares, `squares` (..., rows, 1), and return what to multiply the rows by.

    Rows of `steps` (..., rows, columns) are divided by the roots of the averages; each matrix is then scaled to the
    root mean square of an orthogonal one.
    """
    mean = steps.float().square().mean(-1, keepdim=True)
    squares.lerp_(mean, 1 - momentum)
    inverse = 1 / (squares.sqrt() + 1e-10)
    rms = (mean * inverse.square()).mean(-2, keepdim=True).sqrt()
    return inverse / (rms.clamp(min=1e-10) * math.sqrt(max(steps.shape[-2:])))


@functools.partial(maybe_compile, static=True)
def _descend(weights: Tensor, steps: Tensor, rate: float | Tensor, decay: float | Tensor, scale: Tensor | None) -> None:
    """Take `steps`, by `rate` and by the rows' `scale`, from weights that decay."""
    scaled = steps.float() * rate
    weights.mul_(1 - decay).sub_(scaled if scale is None else scaled * scale)
