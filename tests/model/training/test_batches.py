import numpy as np
import pytest

from model.network.packing import Budget, pad_to_budget
from model.puzzles.arrays import Pairs, Views
from model.training import batches
from model.training.batches import Place, Stream

PREFIX = 4


def _stream(seed=0, batch=16):
    draws = np.random.default_rng(5)
    sides = draws.integers(1, 12, size=(40, 4))
    offset = np.arange(40) * 300
    pairs = Pairs(np.arange(40) // 4, np.arange(40) % 4, offset, *sides.T[:2], offset + 150, *sides.T[2:])
    count = np.arange(1, 11)
    views = Views(count.cumsum() - count, count, np.zeros(55, int), np.zeros((55, 10), np.uint8), np.zeros(55, int))
    weight = np.where(np.arange(40) < 8, 5.0, 1.0)
    return Stream(pairs, views, weight, batch, PREFIX, seed), pairs, views, weight


def _take(stream, count, first=0):
    batches = stream.batches(first)
    return [next(batches) for _ in range(count)]


def test_the_draws_follow_the_weights_whatever_the_size_of_the_grids():
    """Over whole chunks nothing is lost to packing: shares match the weights within five standard errors."""
    stream, pairs, _, weight = _stream()
    rows = [row for batch in _take(stream, 3000) for row in batch]
    pair = {int(offset): i for i, offset in enumerate(pairs.input_offset)}
    counts = np.bincount([pair[row[2]] for row in rows], minlength=40)
    share = weight / weight.sum()
    assert (np.abs(counts - share * len(rows)) < 5 * np.sqrt(share * len(rows)) + 16).all()


def test_views_are_drawn_evenly_from_those_of_the_task():
    stream, _, views, _ = _stream()
    rows = [row for batch in _take(stream, 2000) for row in batch]
    for task in (3, 9):
        drawn = np.array([row[1] for row in rows if row[0] == task]) - views.start[task]
        counts = np.bincount(drawn, minlength=views.count[task])
        assert len(counts) == views.count[task]
        expected = len(drawn) / views.count[task]
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_every_batch_fits_its_budget_and_is_nearly_full():
    stream, *_ = _stream(batch=64)
    used = []
    for rows in _take(stream, 300):
        table, _ = pad_to_budget(rows, PREFIX, stream.budget)
        assert int((table[3] * table[4] + PREFIX).sum()) == stream.budget.context
        assert int((table[6] * table[7]).sum()) == stream.budget.target
        used.append(sum(row[6] * row[7] for row in rows) / stream.budget.target)
    assert np.mean(used) > 0.85


def test_no_padding_sequence_is_longer_than_the_longest_example():
    """Tiny grids use up the sequences and leave rows; once they all went to one sequence, past the kernel's bound."""
    sides = np.array([[1, 1, 1, 1]] * 60 + [[30, 30, 30, 30]])
    count = np.ones(61, int)
    pairs = Pairs(np.arange(61), np.zeros(61, int), np.zeros(61, int), *sides.T[:2], np.zeros(61, int), *sides.T[2:])
    views = Views(np.arange(61), count, np.zeros(61, int), np.zeros((61, 10), np.uint8), np.zeros(61, int))
    stream = Stream(pairs, views, np.ones(61), 128, PREFIX, 0)
    for rows in _take(stream, 200):
        table, budget = pad_to_budget(rows, PREFIX, stream.budget)
        assert int((table[3] * table[4]).max()) + PREFIX <= budget.longest_context
        assert int((table[6] * table[7]).max()) <= budget.longest_target
    with pytest.raises(ValueError, match="padding sequences cannot take"):
        pad_to_budget([(0, 0, 0, 1, 1, 0, 1, 1)], PREFIX, stream.budget._replace(sequences=3))


@pytest.mark.parametrize("batch", [8, 64, 800])
def test_grids_of_one_size_need_hardly_any_padding(batch):
    """Padding once took as many sequences as the examples, each a tile of attention (docs/log.md)."""
    sides, count = np.full((30, 4), 5), np.ones(30, int)
    pairs = Pairs(np.arange(30), np.zeros(30, int), np.zeros(30, int), *sides.T[:2], np.zeros(30, int), *sides.T[2:])
    views = Views(np.arange(30), count, np.zeros(30, int), np.zeros((30, 10), np.uint8), np.zeros(30, int))
    stream = Stream(pairs, views, np.ones(30), batch, PREFIX, 0)
    assert stream.budget.sequences <= batch + 8
    assert all(batch <= len(rows) <= batch + 4 for rows in _take(stream, 200))


def test_batch_k_is_a_function_of_seed_and_k():
    a, b, other = _stream()[0], _stream()[0], _stream(seed=1)[0]
    assert _take(a, 90)[80:] == _take(b, 10, first=80)
    assert _take(a, 5) != _take(other, 5)


def test_from_its_place_a_batch_is_made_without_the_chunks_before(monkeypatch):
    monkeypatch.setattr("model.training.batches._CHUNK", 4)
    whole = _take(_stream()[0], 40)
    before, after = _stream()[0], _stream()[0]
    _take(before, 31)
    assert 0 < before.place.batch <= 30
    made, chunk = [], after._chunk

    def counted(number):
        made.append(number)
        return chunk(number)

    monkeypatch.setattr(after, "_chunk", counted)
    batches = after.batches(31, before.place)
    assert [next(batches) for _ in range(9)] == whole[31:]
    assert made[0] == before.place.chunk
    assert after.place.chunk == made[-1]


def test_a_place_beyond_the_first_batch_is_refused():
    with pytest.raises(ValueError, match="batch 3 is before chunk 2, which begins with batch 9"):
        next(_stream()[0].batches(3, Place(2, 9)))


def test_a_batch_beyond_the_budget_is_refused():
    stream, *_ = _stream()
    with pytest.raises(ValueError, match="do not fit"):
        pad_to_budget([(0, 0, 0, 30, 30, 0, 30, 30)] * 10, PREFIX, stream.budget)


@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_table_is_contiguous_however_much_padding_it_has(free):
    """A recorded update reads a contiguous copy of it; of another layout it would have to compile kernels anew."""
    rows = [(0, 0, 0, 3, 4, 12, 2, 5)] * 3
    tight = Budget(3 + free, 3 * (12 + PREFIX) + free * PREFIX, 30, 12 + PREFIX, 10)
    assert pad_to_budget(rows, PREFIX, tight)[0].flags.c_contiguous
    assert pad_to_budget(rows, PREFIX, None)[0].flags.c_contiguous


@pytest.mark.parametrize("count", [3, 29, 1997])
def test_no_draw_lies_beyond_the_last_pair_that_has_weight(count):
    """Sums of rounded shares may end below 1."""
    weight = np.append(np.full(count, 0.1), 0.0)
    shares = batches._cumulative(weight)
    np.testing.assert_allclose(shares, np.cumsum(weight) / (0.1 * count), rtol=1e-12)
    assert np.searchsorted(shares, np.nextafter(1, 0), side="right") == count - 1
