"""The weights of a network before its training."""

import math

from torch import nn

from model.config.network import Network
from model.puzzles.grids import COLOURS


def initialise(network: nn.Module, config: Network) -> None:
    """Draw the weights: by the width of the layer, residual outputs by depth through all turns."""
    residual_scale = 1 / math.sqrt(2 * config.layers * config.turns)
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            zero = name.endswith(("bias", "log_gain"))
            nn.init.zeros_(parameter) if zero else nn.init.normal_(parameter, std=1.0)
        elif name.endswith(("attention_out.weight", "feed_out.weight")):
            nn.init.normal_(parameter, std=residual_scale / math.sqrt(parameter.shape[1]))
        elif name in ("task_table.weight", "conditioning_table.weight"):
            nn.init.normal_(parameter, std=config.embedding_std)
        elif name == "colour_head.weight" or name.endswith("convolution"):
            nn.init.zeros_(parameter)
        elif name in ("input_cells.weight", "output_cells.weight"):
            nn.init.normal_(parameter, std=1 / math.sqrt(COLOURS))
        else:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
