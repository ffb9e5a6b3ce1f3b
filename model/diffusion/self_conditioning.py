"""Self-conditioning: the network receives its own previous estimate of x_0 (Chen et al. 2022, Analog Bits; ledger 3).

The logits of the estimate become ten features of each cell, which are projected to the width, scaled by `gain` and
added to the embedding of the output cells.
"""

import torch
from torch import Tensor, nn

from model.config.diffusion import SelfConditioning
from model.ops.compilation import maybe_compile
from model.puzzles.grids import COLOURS

_COLUMNS = 16
"""Ten features and unused ones, since tensor cores need multiples of 8."""


class Projection(nn.Module):
    """Projects features (T, 10) to the width of the network (T, D)."""

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
        """Torch's default for the layers, 0.3 for the gate, as the lab (version ledger, v7).

        But of 16 inputs for its 10: the bound is 0.25 instead of 0.32; v7's norm takes the scale away again.
        """
        for layer in self.layers:
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                layer.reset_parameters()
        if self.gate is not None:
            nn.init.constant_(self.gate, 0.3)

    def forward(self, features: Tensor) -> Tensor:
        """Projected features (T, D)."""
        return _project(self.layers, features, self.gate)


@maybe_compile
def _project(layers: nn.Sequential, features: Tensor, gate: Tensor | None) -> Tensor:
    result: Tensor = layers(nn.functional.pad(features, (0, _COLUMNS - COLOURS)))
    return result if gate is None else gate * result


def features(config: SelfConditioning, logits: Tensor) -> Tensor:
    """Features of an estimate, float32 (T, 10), from its logits (T, 10): probabilities or centred log-probabilities."""
    return _features(logits, None if config.features == "probabilities" else config.temperature)


@maybe_compile
def _features(logits: Tensor, temperature: float | None) -> Tensor:
    if temperature is None:
        return logits.float().softmax(-1)
    log_probabilities = (logits.float() / temperature).log_softmax(-1)
    return log_probabilities - log_probabilities.mean(-1, keepdim=True)


def gain(config: SelfConditioning, alpha_bar: Tensor, progress: float | Tensor) -> Tensor:
    """Strength of the features for each cell, in [0.3, 1], (T,): 0.3 + 0.7 s.

    s is `alpha_bar` (T,) or `progress`, a scalar in [0, 1], as the configuration says.
    """
    share = alpha_bar if config.gain == "alpha-bar" else torch.zeros_like(alpha_bar) + progress
    return 0.3 + 0.7 * share


def training_progress(step: int, optimizer_steps: int) -> float:
    """The `progress` of `gain` at an update, from 0 to 1: full strength from 80 % of the training on.

    Lab's code, 587f399c, training:194 (version ledger, v0).
    """
    return min(1.0, step / (0.8 * optimizer_steps))


def blend(logits: Tensor, clean: Tensor, share: Tensor, draw: Tensor) -> Tensor:
    """Replace a random share of the clean grid by the estimate's likeliest colours (version ledger, v5): int64 (T,).

    `logits` (T, 10) of the estimate, `clean` int64 (T,), `share` (T,) in [0, 1], `draw` (T,) uniform draws from [0, 1).
    """
    return torch.where(draw < share, logits.argmax(-1), clean)
