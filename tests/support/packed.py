"""A small denoiser and a packed batch of four examples."""

import numpy as np
import torch

from model.network.denoiser import build
from model.network.device_data import DeviceData, geometry
from model.network.packing import pack, pad_to_budget
from tests.conftest import experiment

CELLS = torch.randint(10, (400,), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
ROWS = [(0, 0, 0, 4, 5, 50, 3, 6), (2, 1, 20, 2, 3, 80, 5, 1), (1, 7, 40, 6, 6, 100, 6, 6), (2, 3, 9, 1, 1, 8, 1, 1)]


def network(**switches):
    """A small denoiser in float64 without dropout, with a colour head that is not zero."""
    config = experiment(train={"network": {"dropout": 0.0, "embedding_dropout": 0.0} | switches}).train
    net = build(config, 3).eval().double()
    torch.nn.init.normal_(net.colour_head.weight)
    return net


def packed_rows(net, rows, budget=None):
    """The rows packed for this network."""
    data = DeviceData(
        CELLS, torch.from_numpy(geometry(np.arange(8))), torch.arange(10).expand(8, 10), torch.arange(16).view(8, 2)
    )
    table, budget = pad_to_budget(rows, net.prefix_length, budget)
    return pack(torch.from_numpy(table), data, net.prefix_length, budget)


def run(net, rows, budget=None, hide_input=None, features=None):
    """Pack the rows, encode and denoise: the packed batch, the encoded contexts, the logits."""
    return evaluate(net, packed_rows(net, rows, budget), hide_input, features)


def evaluate(net, packed, hide_input=None, features=None, seeds=None):
    """Encode and denoise a packed batch, with colours and times that depend on the cell only.

    `seeds` (2, dropouts) are of the dropout in both; None is none.
    """
    of_context, of_target = (None, None) if seeds is None else seeds
    encoded = net.encode(packed, hide_input, of_context)
    cells = packed.target_cell
    colours = cells * 7 % 10
    used = None if features is None else features[: len(cells)]
    gain = torch.ones(len(cells)).double()
    logits = net.denoise(packed, encoded, colours, (cells % 3).double(), used, gain, of_target)
    return packed, encoded, logits
