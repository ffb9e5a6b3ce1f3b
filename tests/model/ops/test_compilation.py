"""Compiled functions against the same functions run eagerly."""

import shutil

import pytest
import torch

from model.ops import compilation
from model.ops.dropout import seeds
from tests.support.packed import ROWS, evaluate, network, packed_rows

compiles = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"),
    pytest.mark.filterwarnings("ignore"),
]
DYNAMIC = [pytest.param(dynamic, marks=compiles) for dynamic in (True, False)]


def test_the_previous_setting_returns_after_the_block(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic, **_: lambda: "dynamic" if dynamic else "static")
    function = compilation.maybe_compile(lambda: "eager")
    assert function() == "eager"
    with compilation.set_enabled(True):
        assert function() == "static"
        with compilation.set_enabled(True, dynamic=True):
            assert function() == "dynamic"
            with compilation.set_enabled(False):
                assert function() == "eager"
            assert function() == "dynamic"
        assert function() == "static"
    assert function() == "eager"


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"task_embedding": "added", "head_gains": "learned"},
        {"task_tokens": 3},
        {"convolution": "3x3", "turns": 2},
        {"hidden_dropout": 0.2, "dropout": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_compiled_equals_eager_and_gradients_agree(dynamic, switches):
    net = network(**switches)
    for block in net.blocks:
        if block.convolution is not None:
            torch.nn.init.normal_(block.convolution, std=0.3)
    packed, results = packed_rows(net, ROWS), []
    features = torch.randn(100, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for on in (False, True):
        with compilation.set_enabled(on, dynamic=dynamic):
            _, encoded, logits = evaluate(net, packed, features=features, seeds=seeds(torch.tensor(1), 2, net.dropouts))
            value = logits.square().mean() + encoded.size_logits.square().mean()
            gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        results.append([value, *(g for g in gradients if g is not None)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_compiled_steps_of_a_denoising_equal_an_eager_one(dynamic):
    net = network()
    packed = packed_rows(net, ROWS)
    with torch.no_grad():
        _, _, logits = evaluate(net, packed)
        with compilation.set_enabled(True, dynamic=dynamic):
            _, encoded, _ = evaluate(net, packed)
            cell = packed.target_cell
            for _ in range(2):
                again = net.denoise(packed, encoded, cell * 7 % 10, (cell % 3).double(), None, torch.ones(1).double())
                assert torch.allclose(again, logits, rtol=1e-4, atol=1e-6)
