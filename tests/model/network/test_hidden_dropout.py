"""Dropout of what the output projections read, against the definition at each place."""

import pytest
import torch

from model.network import denoiser, hidden_dropout
from model.ops.dropout import dropout, seeds
from tests.support.packed import ROWS, network, packed_rows

RATE = 0.25


def _seen(monkeypatch, net, own):
    """What hidden dropout was given and made of it, in the order of its calls, and the logits."""
    calls, real = [], hidden_dropout.drop_hidden

    def spy(x, drop):
        calls.append((x, real(x, drop), drop))
        return calls[-1][1]

    monkeypatch.setattr(denoiser, "drop_hidden", spy)
    packed = packed_rows(net, ROWS)
    encoded = net.encode(packed, seeds=None if own is None else own[0])
    cells = packed.target_cell
    where = packed, encoded, cells * 7 % 10, (cells % 3).double(), None, None
    logits = net.denoise(*where, None if own is None else own[1])
    monkeypatch.undo()
    return calls, logits


def test_it_drops_the_heads_outputs_and_the_gated_activations_of_every_layer(monkeypatch):
    net = network(hidden_dropout=RATE, layers=2)
    own = seeds(torch.tensor(1), 2, net.dropouts)
    calls, _ = _seen(monkeypatch, net, own)
    width, inner, config = net.config.width, net.config.feed_forward, net.config
    assert [x.shape[1] for x, _, _ in calls] == [width, inner] * (2 * config.layers)
    masks = []
    for x, dropped, (rate, seed) in calls:
        assert rate == RATE
        assert torch.equal(dropped, dropout(x, RATE, seed))
        kept = dropped != 0
        assert torch.allclose(dropped[kept], x[kept] / (1 - RATE))
        masks.append(int(seed))
    shares = torch.cat([(dropped == 0).flatten() for _, dropped, _ in calls]).double().mean()
    assert float(shares) == pytest.approx(RATE, abs=0.02)
    assert len(set(masks)) == len(masks) == 4 * config.layers


def test_no_mask_is_that_of_a_residual_or_an_embedding(monkeypatch):
    net = network(hidden_dropout=RATE, layers=2)
    assert net.dropouts == 1 + 4 * 2
    own = seeds(torch.tensor(1), 2, net.dropouts)
    calls, _ = _seen(monkeypatch, net, own)
    hidden = {int(seed) for _, _, (_, seed) in calls}
    assert hidden == set(own[:, 5:].flatten().tolist())
    assert not hidden & set(own[:, :5].flatten().tolist())


def test_without_seeds_or_rate_nothing_is_dropped(monkeypatch):
    net, plain = network(hidden_dropout=RATE), network()
    plain.load_state_dict(net.state_dict())
    calls, logits = _seen(monkeypatch, net, None)
    assert calls == []
    assert torch.equal(logits, _seen(monkeypatch, plain, None)[1])
    assert plain.dropouts == 1 + 2 * plain.config.layers
    assert _seen(monkeypatch, plain, seeds(torch.tensor(1), 2, plain.dropouts))[0] == []


def test_the_same_seeds_drop_the_same_and_others_other_values(monkeypatch):
    net = network(hidden_dropout=RATE)
    first, again, other = (_seen(monkeypatch, net, seeds(torch.tensor(key), 2, net.dropouts))[1] for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
