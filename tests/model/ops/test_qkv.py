"""Attention scores of single heads in closed form: their gain, and the frequencies of the rotary embedding."""

import math

import pytest
import torch

from model.network.denoiser import Denoiser, build
from model.ops.qkv import rotation_of, scatter_context_kv, scatter_target_kv
from tests.conftest import experiment

WIDTH = 32
PAIRS = WIDTH // 2
BY_ROW = 3 * PAIRS // 8


def _heads(position, gain, fastest, qkv):
    """Query and key heads (N, H, W) of a context and of a target whose rows are the same."""
    slots = torch.arange(len(position)), torch.zeros(0, dtype=torch.int64)
    rotation = rotation_of(position, WIDTH, torch.float64, gain, fastest)
    query, keys, values, *both = scatter_context_kv(qkv, rotation, *slots)
    target_query, target_keys, _ = scatter_target_kv(qkv, rotation, slots[0], *both)
    assert torch.equal(values, qkv[:, 2])
    assert torch.equal(target_query, query)
    assert torch.equal(target_keys, keys)
    return query, keys


def _scores(position, gain, fastest, qkv):
    return torch.einsum("qhw,khw->hqk", *_heads(position, gain, fastest, qkv)) / math.sqrt(WIDTH)


def _case(rows=12):
    draws = torch.Generator().manual_seed(0)
    position = torch.randint(0, 30, (rows, 3), generator=draws).float()
    position[:, 2] = position[:, 2] % 2
    return position, torch.randn(rows, 3, 2, WIDTH, generator=draws, dtype=torch.float64)


@pytest.mark.parametrize("gain", [0.25, 2.0, 7.5])
def test_the_gain_multiplies_every_score(gain):
    position, qkv = _case()
    one, many = (_scores(position, g, 1.0, qkv) for g in (1.0, gain))
    assert torch.allclose(many, gain * one, rtol=1e-5, atol=1e-5)
    assert one.std() > 0.1


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_a_row_attends_to_itself_with_the_gain_times_the_root_of_the_width(gain):
    """Query and key are normalised, and equal positions cancel in the rotary embedding."""
    position, qkv = _case()
    qkv[:, 1] = qkv[:, 0]
    own = _scores(position, gain, 2.0, qkv).diagonal(dim1=1, dim2=2)
    assert torch.allclose(own, torch.full_like(own, gain * math.sqrt(WIDTH)), rtol=1e-6)


@pytest.mark.parametrize("fastest", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scores_are_cosines_of_the_difference_of_positions(fastest, axis):
    """Equal queries and keys in one pair of columns: the score is W cos(speed x difference) / sqrt(W)."""
    position = torch.zeros(30, 3)
    position[:, axis] = torch.arange(30)
    shares, bases = (BY_ROW, BY_ROW, PAIRS - 2 * BY_ROW), (60.0, 60.0, 4.0)
    first = sum(shares[:axis])
    for pair in range(shares[axis]):
        speed = bases[axis] ** (-pair / shares[axis]) * (fastest if axis < 2 else 1.0)
        qkv = torch.zeros(30, 3, 1, WIDTH, dtype=torch.float64)
        qkv[..., first + pair] = 1.0
        result = _scores(position, 1.0, fastest, qkv)[0, 0]
        expected = math.sqrt(WIDTH) * torch.cos(speed * torch.arange(30, dtype=torch.float64))
        assert torch.allclose(result, expected, atol=1e-4)


def test_sharper_attention_concentrates_on_the_same_cell():
    """Attention weight of a cell of a 20 x 20 grid on itself, where all queries and keys are equal."""
    cells = torch.cartesian_prod(torch.arange(20), torch.arange(20)).float()
    position = torch.cat([cells, torch.zeros(400, 1)], 1)
    qkv = torch.ones(400, 3, 1, WIDTH, dtype=torch.float64)
    blurred, sharp = (
        _scores(position, gain, fastest, qkv)[0].softmax(-1).diagonal().mean()
        for gain, fastest in ((1.0, 1.0), (2.0, 2.0))
    )
    assert sharp > 2 * blurred


def test_the_tables_are_bit_for_bit_what_they_were_without_the_switches():
    position, _ = _case(50)
    for dtype in (torch.float32, torch.bfloat16):
        parts = [torch.exp(-torch.arange(n) * (math.log(b) / n)) for n, b in ((6, 60.0), (6, 60.0), (4, 4.0))]
        angle = sum(position[:, axis, None] * torch.block_diag(*parts)[axis] for axis in range(3))[:, None]
        for result, expected in zip(rotation_of(position, WIDTH, dtype), (angle.cos(), angle.sin()), strict=True):
            assert torch.equal(result, expected.to(dtype))


@pytest.mark.parametrize("switch", [{"attention_gain": 3.0}, {"fastest_rotation": 3.0}])
def test_the_network_uses_its_own_gain_and_rotation_for_contexts_and_targets(switch, monkeypatch):
    from model.network import denoiser
    from tests.support.packed import ROWS, packed_rows

    calls = []

    def spy(position, width, dtype, gain, fastest):
        calls.append((gain, fastest))
        return rotation_of(position, width, dtype, gain, fastest)

    monkeypatch.setattr(denoiser, "rotation_of", spy)
    net = build(experiment(train={"network": switch}).train, 3).eval()
    assert isinstance(net, Denoiser)
    net.encode(packed_rows(net, ROWS))
    assert calls == 2 * [(switch.get("attention_gain", 1.0), switch.get("fastest_rotation", 1.0))]


@pytest.mark.parametrize("name", ["attention_gain", "fastest_rotation"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_gain_and_no_rotation_is_refused(name, value):
    with pytest.raises(ValueError, match=f"train.network.{name} is {value}; "):
        experiment(train={"network": {name: value}})
