"""The counted operations against torch's counter, and against a count by hand of what that does not see."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.network.convolution import neighbours
from tasks.benchmark import flops
from tasks.benchmark.flops import Lengths
from tests.support.packed import ROWS, network, packed_rows, run


def _lengths(net):
    return Lengths(
        np.array([h * w + net.prefix_length for _, _, _, h, w, *_ in ROWS]), np.array([h * w for *_, h, w in ROWS])
    )


@pytest.mark.parametrize("switches", [{}, {"turns": 2}, {"turns": 3, "layers": 1}, {"task_embedding": "added"}])
def test_the_matrix_products_of_the_layers_are_those_that_torch_counts(switches):
    """All but attention, whose buckets torch counts with their padding, and what a network of no feed-forward has."""
    net = network(**switches)
    config, lengths = net.config, _lengths(net)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run(net, ROWS)
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for kind, n in counted.items() if kind in (torch.ops.aten.mm, torch.ops.aten.addmm))
    c, t = (x.astype(float) for x in lengths)
    depth, width = config.layers * config.turns, config.width
    attention = depth * 4 * width * float(t @ (c + t))
    attention += 4 * width * (float(c @ c) * (depth - 1) + float(c.sum()))
    # Outside of the layers: the time of each target, its logits of 16 columns, and the size head.
    outside = 2 * width * float(t.sum()) * (64 + 16) + 2 * len(ROWS) * config.size_hidden * (width + 60)
    assert flops.forward(config, lengths, context=True) - attention == products - outside


def test_a_convolution_has_nine_products_for_each_activation_of_a_cell():
    net, plain = network(convolution="3x3", turns=2), network(turns=2)
    lengths = _lengths(net)
    packed = packed_rows(net, ROWS)
    cells = [int((near[:, 4] < len(near)).sum()) for near, _ in neighbours(packed)]
    depth = net.config.layers * 2
    for context, passes in ((False, depth * cells[1]), (True, depth * cells[1] + (depth - 1) * cells[0])):
        more = [flops.forward(x.config, lengths, context=context) for x in (net, plain)]
        assert more[0] - more[1] == 2 * 9 * net.config.feed_forward * passes
