"""Self-conditioning: the network is told its own previous estimate (Chen et al. 2022, Analog Bits; ledger 3).

The estimate's logits become ten features a cell, which a projection adds to the embedding of the output cells with a
strength of `gain`.
"""

import torch
from torch import Tensor, nn

from model.config.experiment import SelfConditioning
from model.ops.compilation import maybe_compile
from model.puzzles.grids import COLOURS

_COLUMNS = 16
"""Ten features and spare ones: the matrix units want multiples of 8."""


class Projection(nn.Module):
    """From the ten features (T, 10) to the width (T, D)."""

    def __init__(self, config: SelfConditioning, width: int) -> None:
        super().__init__()
        self.config = config
        layers: dict[str, list[nn.Module]] = {
            "linear": [nn.Linear(_COLUMNS, width)],
            "mlp": [nn.Linear(_COLUMNS, 2 * width), nn.GELU(), nn.Linear(2 * width, width)],
            "gated-norm": [nn.Linear(_COLUMNS, width), nn.LayerNorm(width)],
        }
        self.layers = nn.Sequential(*(layers[config.projection] if config.features != "none" else []))
        self.gate = nn.Parameter(torch.tensor([0.3])) if config.projection == "gated-norm" else None

    def initialise(self) -> None:
        """The lab's start: torch's own for the layers, 0.3 for the gate (version ledger, v7)."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                layer.reset_parameters()
        if self.gate is not None:
            nn.init.constant_(self.gate, 0.3)

    def forward(self, features: Tensor) -> Tensor:
        """Projected features (T, D)."""
        return _projected(self.layers, features, self.gate)


@maybe_compile
def _projected(layers: nn.Sequential, features: Tensor, gate: Tensor | None) -> Tensor:
    result: Tensor = layers(nn.functional.pad(features, (0, _COLUMNS - COLOURS)))
    return result if gate is None else gate * result


def features(config: SelfConditioning, logits: Tensor) -> Tensor:
    """What the network is told of an estimate with these logits, float (T, 10)."""
    return _features(logits, None if config.features == "probabilities" else config.temperature)


@maybe_compile
def _features(logits: Tensor, temperature: float | None) -> Tensor:
    if temperature is None:
        return logits.float().softmax(-1)
    log_probabilities = (logits.float() / temperature).log_softmax(-1)
    return log_probabilities - log_probabilities.mean(-1, keepdim=True)


def gain(config: SelfConditioning, alpha_bar: Tensor, progress: float | Tensor) -> Tensor:
    """Strength of the features per cell, (T,): 0.3 + 0.7 of alpha_bar (T,), or of progress in 0..1 (scalar)."""
    share = alpha_bar if config.gain == "alpha-bar" else torch.zeros_like(alpha_bar) + progress
    return 0.3 + 0.7 * share


def blend(logits: Tensor, clean: Tensor, share: Tensor, draw: Tensor) -> Tensor:
    """The clean grid, int64 (T,), with a share (T,) of its cells as estimated, by uniform draws from [0, 1), (T,)."""
    return torch.where(draw < share, logits.argmax(-1), clean)
