"""Task embeddings added to every row, longer prefixes and learned gains, against their definitions."""

import pytest
import torch

from model.network import layers
from model.network.packing import Budget
from model.ops.qkv import scale_heads
from tests.support.packed import ROWS, evaluate, network, packed_rows, run


@pytest.mark.parametrize("switches", [{"task_embedding": "added"}, {"task_tokens": 3}, {"head_gains": "learned"}])
def test_a_packed_batch_equals_its_examples_one_by_one_with_and_without_padding(switches):
    net = network(**switches)
    for block in net.blocks:
        if block.log_gain is not None:
            torch.nn.init.normal_(block.log_gain)
    for budget in (None, Budget(8, 256, 192, 64, 64)):
        packed, encoded, logits = run(net, ROWS, budget)
        for i, row in enumerate(ROWS):
            _, alone, expected = run(net, [row])
            assert torch.allclose(logits[packed.target_real & (packed.target_example == i)], expected, atol=1e-5)
            assert torch.allclose(encoded.size_logits[i], alone.size_logits[0], atol=1e-5)


def test_added_embeddings_equal_embeddings_in_every_cell():
    """One example: the same sum in the embeddings of cells and size token, in place of the task's."""
    row = [ROWS[0]]
    added, plain = network(task_embedding="added"), network(task_embedding="added")
    plain.load_state_dict(added.state_dict())
    tokens = packed_rows(added, row).view_tokens[0]
    vector = added.task_table.weight[ROWS[0][0]] + added.conditioning_table.weight[tokens].sum(0)
    with torch.no_grad():
        for table in (plain.task_table, plain.conditioning_table):
            torch.nn.init.zeros_(table.weight)
        plain.size_token += vector
        for cells in (plain.input_cells, plain.output_cells):
            cells.weight += vector[:, None]
    a, b = run(added, row), run(plain, row)
    assert torch.allclose(a[2], b[2], atol=1e-9)
    assert torch.allclose(a[1].size_logits, b[1].size_logits, atol=1e-9)
    assert not torch.allclose(a[2], run(added, [(1, *ROWS[0][1:])])[2], atol=1e-3)


def test_the_gradient_of_added_embeddings_is_that_of_plain_indexing():
    torch.manual_seed(0)
    vectors, sequence = torch.randn(5, 7, requires_grad=True), torch.tensor([0, 0, 1, 3, 3, 3, 4])
    weight = torch.randn(7, 7)
    (ours,) = torch.autograd.grad((layers._repeat(vectors, sequence) * weight).sum(), vectors)
    (theirs,) = torch.autograd.grad((vectors[sequence] * weight).sum(), vectors)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_longer_prefix_has_as_many_rows_and_each_reaches_the_answer():
    net = network(task_tokens=3)
    assert net.prefix_length == network().prefix_length + 2
    assert net.task_table.weight.shape == (3, 3 * 32)
    packed = packed_rows(net, [ROWS[0]])
    before = evaluate(net, packed)[2]
    for token in range(3):
        own = net.task_table.weight.data[0, 32 * token : 32 * (token + 1)]
        saved = own.clone()
        own += torch.randn(32, dtype=own.dtype)
        assert not torch.allclose(evaluate(net, packed)[2], before, atol=1e-4)
        own.copy_(saved)


def test_the_deviation_of_the_embeddings_at_the_start_is_the_one_given():
    net = network(embedding_std=0.02)
    assert float(net.conditioning_table.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(network().conditioning_table.weight.detach().std()) == pytest.approx(1.0, rel=0.1)


def test_learned_gains_start_as_the_fixed_gain_and_act_as_it():
    fixed, learned = network(attention_gain=2.0), network(head_gains="learned")
    learned.load_state_dict(fixed.state_dict() | {n: p for n, p in learned.state_dict().items() if "log_gain" in n})
    a = run(network(attention_gain=1.0), ROWS)[2]
    assert all(torch.count_nonzero(block.log_gain) == 0 for block in learned.blocks)
    for block in learned.blocks:
        torch.nn.init.constant_(block.log_gain, torch.tensor(2.0).log().item())
    b, c = run(fixed, ROWS), run(learned, ROWS)
    assert torch.allclose(b[2], c[2], atol=1e-6)
    assert torch.allclose(b[1].size_logits, c[1].size_logits, atol=1e-6)
    assert not torch.allclose(a, b[2], atol=1e-3)


def test_each_head_has_its_own_gain():
    query = torch.randn(5, 3, 8)
    scaled = scale_heads(query, torch.tensor([0.0, 1.0, -1.0]))
    for head, log_gain in enumerate((0.0, 1.0, -1.0)):
        expected = query[:, head] * torch.tensor(log_gain).exp()
        assert torch.allclose(scaled[:, head], expected)
