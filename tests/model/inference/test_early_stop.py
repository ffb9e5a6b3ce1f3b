"""Views that a decided vote does not need: the rule against every outcome, and answers with and without it."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.evaluation import EarlyStop
from model.inference import batching
from model.inference.early_stop import Rounds, decided
from model.inference.predictor import Predictor
from model.storage import checkpoints
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tests.conftest import experiment
from tests.support.oracle import evaluation, packed_dataset, votes
from tests.support.small_experiment import build, save_checkpoint


def _leading(sequence, attempts):
    """By counting: `Counter` keeps the order of the first view among equals."""
    return [grid for grid, _ in Counter(sequence).most_common(attempts)]


def _tally(sequence):
    return [(sequence.count(grid), sequence.index(grid)) for grid in dict.fromkeys(sequence)]


def _config(attempts=2, swing=1.0, round_=1):
    return EarlyStop(round=round_, attempts=attempts, swing=swing)


@given(st.lists(st.integers(0, 3), max_size=7), st.integers(0, 4), st.integers(1, 2))
@settings(max_examples=300, deadline=None)
def test_the_exact_rule_says_yes_where_no_outcome_changes_the_leading_grids_and_only_there(so_far, left, attempts):
    grids = [*range(4), 9]  # 9 was not seen yet.
    outcomes = {tuple(_leading([*so_far, *rest], attempts)) for rest in itertools.product([*grids, 10], repeat=left)}
    assert decided(_tally(so_far), left, _config(attempts)) == (len(outcomes) == 1)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 6), st.integers(1, 2))
def test_in_rounds_the_leading_grids_are_those_of_all_views(sequence, round_, attempts):
    grids = [np.array([[colour]], dtype=np.uint8) for colour in range(3)]
    rounds, asked = Rounds(_config(attempts, 1.0, round_), [(7, view) for view in range(len(sequence))]), []
    while new := rounds.next():
        assert new == list(range(len(asked), len(asked) + len(new)))
        asked += new
        for i in reversed(new):  # Batches answer in any order.
            rounds.count(7, i, grids[sequence[i]])
    assert _leading(sequence[: len(asked)], attempts) == _leading(sequence, attempts)
    assert rounds.done == len(sequence)


def test_a_decided_vote_asks_no_more_views():
    """Six of ten for the same: four others cannot reach them, and a tie would be later."""
    rounds, asked, grid = Rounds(_config(1, 1.0, 2), [(7, view) for view in range(10)]), 0, np.ones((1, 1), np.uint8)
    while new := rounds.next():
        asked += len(new)
        for i in new:
            rounds.count(7, i, grid)
    assert asked == 6
    assert rounds.done == 10
    everything = Rounds(None, [(7, view) for view in range(10)])
    assert (everything.next(), everything.next(), everything.done) == (list(range(10)), [], 10)


@given(st.lists(st.integers(0, 2), max_size=20), st.integers(0, 20), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_greater_swing_never_stops_earlier(so_far, left, a, b):
    small, large = sorted((a, b))
    if decided(_tally(so_far), left, _config(swing=large)):
        assert decided(_tally(so_far), left, _config(swing=small))


def test_a_tolerance_by_hand():
    """Ten for A, four for B, eight left: B may get all with swing 1, four with 0.5, and A leads by six."""
    sequence = [0] * 10 + [1] * 4
    assert not decided(_tally(sequence), 8, _config(1))
    assert decided(_tally(sequence), 8, _config(1, swing=0.5))
    assert decided(_tally(sequence), 6, _config(1))  # A tie, and A was seen first.
    assert not decided(_tally([1, *sequence[:13]]), 6, _config(1))  # B was.
    assert not decided(_tally([0] * 10), 1, _config(2, swing=0.1))  # No second grid yet.


@pytest.fixture
def predictor(workspace):
    """Of random weights whose views agree now and then: 2 x 1 grids of few colours."""
    save_checkpoint(build(), task_rows=8, first_rows=list(range(8)))
    network, description = checkpoints.load(paths.CHECKPOINTS / "best", torch.device("cpu"))
    network.colour_head.weight.data[3:] = -network.colour_head.weight.data[:1]
    draws = np.random.default_rng(0)
    dataset = packed_dataset(inputs=[draws.integers(0, 10, (2, 2)).astype(np.uint8) for _ in range(4)])
    names, sizes = [f"{i:08x}" for i in range(4)], {pair: [(1, 1 + pair // 2)] for pair in range(4)}
    return Predictor(network, description, dataset, names, 0, torch.device("cpu"), sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "round_"), [(8192, 8), (20, 5)])
def test_answers_in_rounds_are_the_first_of_all_answers_and_vote_the_same(predictor, monkeypatch, rows, round_):
    monkeypatch.setitem(batching.ROWS, "cpu", rows)
    how = {"steps": 2, "answers": votes(40), "sizes": "rule"}
    stop = EarlyStop(round=round_, attempts=1, swing=1.0)

    def found(**more):
        shares: list[float] = []
        answers = sorted(predictor.answer(evaluation(**how, **more), shares.append), key=lambda a: a[:3])
        assert shares == sorted(shares)
        assert shares[-1] == 1
        return {pair: [a.grid.tolist() for a in answers if a.pair == pair] for pair in range(4)}

    whole, part = found(), found(stop_decided=stop)
    assert any(len(part[pair]) < 40 for pair in whole), "nothing was spared"
    for pair, grids in whole.items():
        assert part[pair] == grids[: len(part[pair])]
        assert len(part[pair]) % round_ == 0
        assert _leading(map(str, part[pair]), 1) == _leading(map(str, grids), 1)
        before = list(map(str, grids[: len(part[pair]) - round_]))
        assert not decided(_tally(before), 40 - len(before), stop), "it could have stopped before"


def test_only_votes_can_stop_early():
    with pytest.raises(ConfigurationError, match="stop_decided needs answers by 'votes'; they are by 'attempts'"):
        experiment(evaluations={"attempts": {"stop_decided": {"round": 8, "attempts": 2, "swing": 1.0}}})
