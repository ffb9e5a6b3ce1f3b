"""Compiled regions against the same functions run eagerly."""

import shutil

import pytest
import torch

from model import compilation
from tests.test_network import ROWS, _network, _run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(params=[True, False])
def dynamic(request):
    yield request.param
    compilation.switch(False, dynamic=False)


def test_compiled_equals_eager_and_gradients_agree(dynamic):
    net = _network()
    results = []
    for on in (False, True):
        compilation.switch(on, dynamic=dynamic)
        _, encoded, logits = _run(
            net, ROWS, features=torch.randn(100, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        )
        value = logits.square().mean() + encoded.size_logits.square().mean()
        gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        results.append([value, *(g for g in gradients if g is not None)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_steps_that_write_in_place_equal_those_that_interleave(dynamic):
    net = _network()
    compilation.switch(True, dynamic=dynamic)
    with torch.no_grad():
        packed, encoded, logits = _run(net, ROWS)
        roomy = net.make_room(packed, encoded)
        cell = packed.target_cell
        arguments = cell * 7 % 10, (cell % 3).double(), None, torch.ones(1).double()
        for _ in range(2):
            assert torch.allclose(net.denoise(packed, roomy, *arguments), logits, rtol=1e-4, atol=1e-6)
