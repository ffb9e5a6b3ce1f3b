"""Votes against counting by hand, and the rules' properties."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.evaluation import VoteRule
from model.inference.sizes import assign_sizes, split_sizes
from model.scoring.proposals import collect_proposals
from model.scoring.vote_rules import RULES
from model.scoring.votes import attempts, visited_share, vote

A, B, C, D = (np.array(cells, dtype=np.uint8) for cells in ([[1]], [[2]], [[1, 1]], [[1, 2]]))

grids = st.lists(
    st.sampled_from([A, B, C, D, np.array([[1], [1]], dtype=np.uint8), np.array([[0]], dtype=np.uint8)]),
    min_size=1,
    max_size=20,
)
weights = st.floats(0.0, 1.0, width=32)


def _tally(proposed, worth, size_first=False):
    """Grids by falling worth, the earlier first among equals: by the definition, one view at a time."""
    total: dict[tuple, float] = {}
    sizes: dict[tuple, float] = {}
    for grid, value in zip(proposed, worth, strict=True):
        key = (grid.shape, grid.tobytes())
        total[key] = total.get(key, 0.0) + value
        sizes[grid.shape] = sizes.get(grid.shape, 0.0) + value
    best = max(sizes, key=lambda s: sizes[s])
    return sorted(total, key=lambda k: (size_first and k[0] != best, -total[k]))


@given(grids, st.data())
def test_every_rule_counts_what_it_says(proposed, data):
    confidence, visited = (
        data.draw(st.lists(weights, min_size=len(proposed), max_size=len(proposed))) for _ in range(2)
    )
    counted = collect_proposals(proposed, None, confidence, visited)
    once = [1.0] * len(proposed)
    worth = {"most-frequent": once, "confidence": confidence, "most-visited": visited, "likelihood": once}
    worth["certainty"] = [1 / (1 - p + 1e-7) for p in confidence]
    for rule in RULES:
        order = [counted.candidates[i] for i in vote(counted, rule)]
        assert [(g.shape, g.tobytes()) for g in order] == _tally(proposed, worth[rule])


def test_one_certain_view_outvotes_several_doubtful_ones():
    """Three views with a doubt of 0.01 a cell weigh 300, one with 0.001 weighs 1000; by confidences they would win."""
    proposed = collect_proposals([A, A, A, B], None, [0.99, 0.99, 0.99, 0.999])
    assert np.array_equal(attempts(proposed, "certainty")[0], B)
    assert np.array_equal(attempts(proposed, "confidence")[0], A)
    sure = collect_proposals([A, B, B], None, [1.0, 1.0, 1.0])
    assert np.array_equal(attempts(sure, "certainty")[0], B), "full confidence is finite"


@given(grids)
def test_the_size_is_voted_first(proposed):
    counted = collect_proposals(proposed)
    order = [counted.candidates[i] for i in vote(counted, "most-frequent", size_first=True)]
    assert [(g.shape, g.tobytes()) for g in order] == _tally(proposed, [1.0] * len(proposed), size_first=True)


def test_the_size_can_outvote_the_most_frequent_grid():
    proposed = [A, A, A, C, C, D, D]
    assert np.array_equal(attempts(collect_proposals(proposed), "most-frequent")[0], A)
    first, second = attempts(collect_proposals(proposed), "most-frequent", size_first=True)
    assert np.array_equal(first, C)
    assert np.array_equal(second, D)


@pytest.mark.slow
@given(grids, st.integers(1, 25))
def test_fewer_views_are_as_if_the_others_had_not_been(proposed, views):
    for rule in RULES:
        some = vote(collect_proposals(proposed), rule, views=views)
        alone = collect_proposals(proposed[:views])
        assert [collect_proposals(proposed).candidates[i].tobytes() for i in some] == [
            alone.candidates[i].tobytes() for i in vote(alone, rule)
        ]


def test_views_are_counted_by_their_number_where_some_failed():
    counted = collect_proposals([A, B, B], view=[0, 5, 6])
    assert [counted.candidates[i].tobytes() for i in vote(counted, "most-frequent", views=5)] == [A.tobytes()]
    assert np.array_equal(attempts(counted, "most-frequent", views=7)[0], B)


@given(grids)
def test_the_two_attempts_are_distinct(proposed):
    found = attempts(collect_proposals(proposed), "most-frequent")
    assert len(found) == min(2, len({(g.shape, g.tobytes()) for g in proposed}))
    assert len({(g.shape, g.tobytes()) for g in found}) == len(found)


def test_confidence_can_outvote_number():
    counted = collect_proposals([A, A, B], None, [0.2, 0.2, 0.9], [1, 1, 1])
    assert np.array_equal(attempts(counted, "most-frequent")[0], A)
    assert np.array_equal(attempts(counted, "confidence")[0], B)


def test_a_grid_that_stood_longer_counts_more():
    """The share of steps is counted along the grids after each step."""
    for steps, trail in ((4, [9, 9, 9, 5]), (4, [9, 5, 5, 5]), (3, [5, 5, 5]), (1, [5])):
        start = 7
        changed = [
            step + 1
            for step, (before, after) in enumerate(zip([start, *trail], trail, strict=False))
            if before != after
        ]
        assert visited_share(max(changed), steps) == np.mean(np.array(trail) == trail[-1])
    assert visited_share(0, 8) == 1.0
    counted = collect_proposals(
        [A, A, B], None, [1, 1, 1], [visited_share(31, 32), visited_share(30, 32), visited_share(2, 32)]
    )
    assert np.array_equal(attempts(counted, "most-visited")[0], B)


def _scores(views, sure):
    """Log-probabilities (views, 2, 30): `sure` are (height, width, log-probability of both) of each view."""
    scores = np.full((views, 2, 30), -9.0)
    for view, (height, width, value) in sure:
        scores[view, 0, height - 1] = scores[view, 1, width - 1] = value
    return scores


def test_a_view_of_another_size_answers_at_the_likelier_of_the_two_best():
    sizes = [(2, 2), (2, 2), (3, 3), (3, 3), (4, 4), (5, 5)]
    scores = _scores(6, [(4, (2, 2, -3.0)), (4, (3, 3, -1.0)), (5, (2, 2, -1.0)), (5, (3, 3, -3.0))])
    assert split_sizes(sizes, scores) == [(2, 2), (2, 2), (3, 3), (3, 3), (3, 3), (2, 2)]


def test_the_split_does_not_depend_on_the_order_of_the_views():
    """The lab's did: it gave the first of the others to the most frequent size."""
    draws = np.random.default_rng(0)
    sizes = [(2, 3)] * 5 + [(3, 2)] * 3 + [(1, 1), (4, 4), (5, 5), (6, 6)]
    scores = draws.normal(size=(12, 2, 30))
    whole = split_sizes(sizes, scores)
    for _ in range(20):
        # The most frequent stay most frequent, whatever the order, since their numbers differ.
        order = draws.permutation(12)
        assert split_sizes([sizes[i] for i in order], scores[order]) == [whole[i] for i in order]


def test_sizes_by_name():
    sizes = [(1, 1), (2, 2), (2, 2), (3, 3)]
    scores = _scores(4, [(0, (3, 3, -1.0)), (0, (2, 2, -2.0))])
    assert assign_sizes("own", sizes, scores) == sizes
    assert assign_sizes("voted", sizes, scores) == [(2, 2)] * 4
    assert set(assign_sizes("split", sizes, scores)) <= {s for s, _ in Counter(sizes).most_common(2)}


@pytest.mark.parametrize("rule", RULES)
def test_one_view_is_its_own_vote(rule):
    assert [g.tobytes() for g in attempts(collect_proposals([C]), rule, size_first=True, views=1)] == [C.tobytes()]


def test_every_name_in_the_configuration_is_a_rule_and_no_other():
    assert tuple(RULES) == get_args(VoteRule)
