"""The convolution of packed grids against conv2d on each grid, and where it acts in the network."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from model.network.convolution import neighbours
from model.network.packing import Budget
from model.ops.convolution import OFFSETS, convolve
from tests.support.packed import ROWS, network, packed_rows, run

BUDGET = Budget(8, 256, 192, 64, 64)
TURNED = [(0, view, 0, 4, 5, 50, 3, 6) for view in range(8)]
WIDTH = 7


def _packed(rows, budget=None, **switches):
    return packed_rows(network(**switches), rows, budget)


def _grids(packed, kind):
    """Rows of every grid, int64 (height, width) in the frame of its view; padding is one of its grids."""
    positions = getattr(packed, f"{kind}_position")[:, :2].long().tolist()
    examples = getattr(packed, f"{kind}_example").tolist()
    cells = packed.context_prefix < 0 if kind == "context" else torch.ones(len(examples), dtype=torch.bool)
    grids = {}
    for row, (example, place, cell) in enumerate(zip(examples, positions, cells.tolist(), strict=True)):
        if cell:
            grids.setdefault(example, {})[tuple(place)] = row
    for places in grids.values():
        height, width = (max(side) + 1 for side in zip(*places, strict=True))
        assert len(places) == height * width
        yield torch.tensor([[places[r, c] for c in range(width)] for r in range(height)])


@pytest.mark.parametrize("kind", ["context", "target"])
@pytest.mark.parametrize("rows", [ROWS, TURNED, [ROWS[3]]], ids=["four", "turned", "one-cell"])
@pytest.mark.parametrize("budget", [None, BUDGET], ids=["exact", "padded"])
def test_a_convolution_of_packed_rows_and_its_gradients_are_those_of_conv2d_on_each_grid(kind, rows, budget):
    if budget is not None and rows is TURNED:
        budget = Budget(12, 384, 192, 64, 64)
    packed = _packed(rows, budget)
    near = neighbours(packed)[kind == "target"].near
    draws = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(len(near), WIDTH, dtype=torch.float64, generator=draws) for _ in range(2))
    kernel = torch.randn(9, WIDTH, dtype=torch.float64, generator=draws)
    values, gradients = [], []
    for ours in (True, False):
        inputs = [x.clone().requires_grad_(), kernel.clone().requires_grad_()]
        if ours:
            result = convolve(*inputs, near)
        else:
            result = inputs[0].clone()
            for grid in _grids(packed, kind):
                plain = inputs[0][grid].permute(2, 0, 1)[None]
                filters = inputs[1].T.reshape(WIDTH, 1, 3, 3)
                convolved = conv2d(plain, filters, padding=1, groups=WIDTH)[0].permute(1, 2, 0)
                result = result.index_add(0, grid.flatten(), convolved.flatten(0, 1))
        values.append(result)
        gradients.append(torch.autograd.grad((result * weight).sum(), inputs))
    assert torch.allclose(*values, atol=1e-12)
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    if kind == "context":
        prefix = packed.prefix_rows
        assert torch.equal(values[0][prefix], x[prefix])


def test_neighbours_are_the_cells_of_the_same_grid_beside_it():
    packed = _packed([*ROWS, *TURNED])
    for kind, (near, _) in zip(("context", "target"), neighbours(packed), strict=True):
        position = getattr(packed, f"{kind}_position").long().tolist()
        example = getattr(packed, f"{kind}_example").tolist()
        for row, found in enumerate(near.tolist()):
            for (down, right), other in zip(OFFSETS, found, strict=True):
                r, c, grid = position[row]
                wanted = [
                    i
                    for i in range(len(position))
                    if grid and example[i] == example[row] and position[i] == [r + down, c + right, grid]
                ]
                assert [other] == (wanted or [len(position)])


def test_a_walk_reads_each_grid_line_by_line_and_knows_the_neighbours():
    packed = _packed([*ROWS, *TURNED])
    for kind, (near, walk) in zip(("context", "target"), neighbours(packed), strict=True):
        codes = walk.tolist()
        order = [n + (code >> 12) for n, code in enumerate(codes)]
        assert sorted(order) == list(range(len(near)))
        for grid in _grids(packed, kind):
            first = order.index(int(grid[0, 0]))
            assert order[first : first + grid.numel()] == grid.flatten().tolist()
        for n, (row, code) in enumerate(zip(order, codes, strict=True)):
            line = (code >> 5 & 127) - 64
            above, below, left, right, cell = (bool(code >> bit & 1) for bit in range(5))
            found = near[row].tolist()
            assert found[1] == (row - line if above else len(near))
            assert found[7] == (row + line if below else len(near))
            assert found[3] == (order[n - 1] if left else len(near))
            assert found[5] == (order[n + 1] if right else len(near))
            assert found[4] == (row if cell else len(near))


def test_no_output_rows_have_no_neighbours():
    near = neighbours(_packed([(0, 0, 0, 4, 5, -1, 0, 0)]))[1].near
    assert near.shape == (0, 9)


def _random_kernels(net):
    for block in net.blocks:
        torch.nn.init.normal_(block.convolution, std=0.3)
    return net


def test_a_packed_batch_equals_its_examples_one_by_one_with_and_without_padding():
    net = _random_kernels(network(convolution="3x3"))
    for budget in (None, BUDGET):
        packed, encoded, logits = run(net, ROWS, budget)
        for i, row in enumerate(ROWS):
            _, alone, expected = run(net, [row])
            assert torch.allclose(logits[packed.target_real & (packed.target_example == i)], expected, atol=1e-5)
            assert torch.allclose(encoded.size_logits[i], alone.size_logits[0], atol=1e-5)


def test_an_untrained_convolution_changes_nothing_and_a_trained_one_context_and_target():
    plain, net = network(layers=2), network(layers=2, convolution="3x3")
    net.load_state_dict(plain.state_dict() | {n: p for n, p in net.state_dict().items() if "convolution" in n})
    a, b, c = run(plain, ROWS), run(net, ROWS), run(_random_kernels(net), ROWS)
    assert torch.equal(a[2], b[2])
    assert torch.equal(a[1].size_logits, b[1].size_logits)
    assert not torch.allclose(a[2], c[2], atol=1e-3)
    assert not torch.allclose(a[1].size_logits, c[1].size_logits, atol=1e-4)


def test_it_is_of_what_the_feed_forwards_output_projection_reads():
    """A kernel of the centre alone scales the gated activations of cells, as scaled columns of that projection do."""
    net = network(layers=1, convolution="3x3")
    scale = torch.rand(net.config.feed_forward, dtype=torch.float64)
    with torch.no_grad():
        net.blocks[0].convolution[4] = scale
    ours = run(net, ROWS)
    with torch.no_grad():
        net.blocks[0].convolution.zero_()
    plain = run(net, ROWS)
    with torch.no_grad():
        net.blocks[0].feed_out.weight *= 1 + scale
    scaled = run(net, ROWS)
    assert torch.allclose(ours[2], scaled[2], atol=1e-9)
    assert not torch.allclose(ours[2], plain[2], atol=1e-3)
    assert torch.equal(ours[1].size_logits, plain[1].size_logits)  # The size token is no cell.


def test_bfloat16_is_summed_in_float32():
    near = neighbours(_packed(ROWS))[1].near
    x, kernel = torch.randn(len(near), WIDTH), torch.randn(9, WIDTH)
    exact = convolve(x.bfloat16().float(), kernel, near)
    half = convolve(x.bfloat16(), kernel, near)
    assert half.dtype == torch.bfloat16
    assert np.abs((half.float() - exact).numpy()).max() < 2**-7 * float(exact.abs().max())
