"""Low-rank adapters in weight space: W + alpha / rank * up @ down (LoRA, Hu et al. 2021).

The network reads `module.weight` everywhere, so a parametrised weight acts everywhere, also where a
layer that wraps another one would never be called. The fused query, key and value share one adapter.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model.config.finetuning import Finetune
from model.network.denoiser import Denoiser


class LowRank(nn.Module):
    """The adapter of one weight (rows, columns); it starts as zero."""

    def __init__(self, weight: Tensor, config: Finetune) -> None:
        super().__init__()
        rows, columns = weight.shape
        if config.rank > min(rows, columns):
            raise ValueError(f"train.finetune.rank is {config.rank}; a matrix of {rows} x {columns} has no higher rank")
        self.up = nn.Parameter(weight.new_zeros(rows, config.rank))
        self.down = nn.Parameter(torch.randn_like(weight[:1].expand(config.rank, columns)) / columns**0.5)
        self.scale, self.dropout = config.alpha / config.rank, config.dropout

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight. Dropout is of the inputs: of columns of `down`, one draw for all rows of a pass."""
        kept = nn.functional.dropout(self.down.new_ones(self.down.shape[1]), self.dropout, self.training)
        return weight + self.scale * self.up @ (self.down * kept)


def adapt(network: Denoiser, config: Finetune) -> None:
    """Freeze the network, but for its task table if that is trained, and add an adapter to every target."""
    network.requires_grad_(False)
    network.task_table.requires_grad_(config.task_table == "trained")
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear) and set(name.split(".")) & set(config.targets):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, config))


def adapters(network: nn.Module) -> dict[str, LowRank]:
    """Every adapter by the name of the module that it adapts."""
    modules = [(name, module) for name, module in network.named_modules() if isinstance(module, LowRank)]
    return {name.removesuffix(".parametrizations.weight.0"): module for name, module in modules}


@torch.no_grad()
def merged(network: nn.Module) -> dict[str, Tensor]:
    """Weights of the plain network that computes the same as this one without dropout; this one stays as it is."""
    low_rank, weights = adapters(network), {}
    for name, tensor in network.state_dict().items():
        module, adapted, part = name.partition(".parametrizations.weight.")
        if not adapted:
            weights[name] = tensor
        elif part == "original":
            adapter = low_rank[module]
            weights[f"{module}.weight"] = tensor + adapter.scale * adapter.up @ adapter.down
    return weights
