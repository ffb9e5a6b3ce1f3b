import pytest
import torch

from model.ops.attention import attention, take_rows
from model.ops.segments import make_segments
from tests.support.masked_attention import masked_attention


def _case(query_lengths, key_lengths, dtype=torch.float64):
    torch.manual_seed(1)
    q, k = torch.tensor(query_lengths), torch.tensor(key_lengths)
    rows = [torch.randn(int(n.sum()), 3, 8, dtype=dtype, requires_grad=True) for n in (q, k, k)]
    return rows, make_segments(q, k, int(q.max()), int(k.max()))


LENGTHS = [
    ([3, 1, 7], [3, 1, 7]),
    ([1, 1, 1], [40, 2, 90]),
    ([5, 0, 30, 2, 60], [9, 4, 31, 100, 61]),
    ([4], [4]),
]


@pytest.mark.parametrize(("query_lengths", "key_lengths"), LENGTHS)
def test_bucketed_attention_and_its_gradients_equal_the_definition(query_lengths, key_lengths):
    rows, segments = _case(query_lengths, key_lengths)
    weight = torch.randn_like(rows[0])
    results = []
    for function in (attention, masked_attention):
        value = function(*rows, segments)
        results.append((value, torch.autograd.grad((value * weight).sum(), rows)))
    (ours, our_gradients), (plain, plain_gradients) = results
    assert torch.allclose(ours, plain, atol=1e-10)
    for a, b in zip(our_gradients, plain_gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_a_segment_does_not_attend_to_another():
    rows, segments = _case([3, 4], [5, 6])
    before = attention(*rows, segments)
    with torch.no_grad():
        rows[1][5:] += 100
        rows[2][5:] += 100
    after = attention(*rows, segments)
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_take_rows_has_the_gradient_of_indexing():
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([4, 0, 2, 5])
    used = torch.tensor([True, False, True, False, True, True])
    inverse = torch.tensor([1, 0, 2, 0, 0, 3])
    weight = torch.randn(4, 2, dtype=torch.float64)
    (plain,) = torch.autograd.grad((x[index] * weight).sum(), x)
    (ours,) = torch.autograd.grad((take_rows(x, index, inverse, used) * weight).sum(), x)
    assert torch.equal(plain, ours)
