"""The vote rule 'likelihood': votes plus weighted log-likelihoods, by the definition; and the choice of its weight."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.config.evaluation import LikelihoodWeight
from model.scoring.proposals import collect_proposals
from model.scoring.replay import WEIGHTS, Replay, best_weight
from model.scoring.votes import vote

GRIDS = [np.full(shape, colour, dtype=np.uint8) for shape in ((1, 1), (1, 2), (3, 1)) for colour in (1, 2)]


def _weight(weight, per="cell"):
    return LikelihoodWeight(weight=weight, per=per)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.lists(st.floats(-50, 0), min_size=6, max_size=6),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    st.sampled_from(["cell", "grid"]),
)
def test_the_order_is_that_of_votes_plus_weighted_nats(chosen, nats, ranked, weight, per):
    order = sorted(set(chosen), key=lambda i: (-chosen.count(i), chosen.index(i)))
    known = {i: nats[i] * (GRIDS[i].size if per == "grid" else 1) for i in order[:ranked]}
    worth = {i: chosen.count(i) / len(chosen) + weight * known.get(i, min(known.values())) for i in order}
    values = [nats[g] if g in known and chosen.index(g) == view else np.nan for view, g in enumerate(chosen)]
    proposals = collect_proposals([GRIDS[g] for g in chosen], log_likelihood=values)
    found = [
        int(np.flatnonzero([proposals.candidates[c] is GRIDS[g] for g in range(6)])[0])
        for c in vote(proposals, "likelihood", likelihood=_weight(weight, per))
    ]
    assert sorted(found) == sorted(order)
    for before, after in itertools.pairwise(found):
        assert worth[before] >= worth[after] - 1e-9 * max(1, abs(worth[after]))
    assert set(found[:1]) <= set(order[:ranked]), "a grid without a likelihood leads"
    if weight == 0:
        assert found == order


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 25), st.booleans())
def test_without_likelihoods_or_weight_it_counts_votes(chosen, views, size_first):
    plain = collect_proposals([GRIDS[g] for g in chosen])
    for likelihood in (None, _weight(0.0), _weight(5.0)):
        found = vote(plain, "likelihood", size_first, views, likelihood)
        assert found == vote(plain, "most-frequent", size_first, views)


def test_a_likely_grid_overtakes_a_frequent_one_by_hand():
    """Two votes of three at -2 nats a cell, one at -1: 2/3 - 2 w < 1/3 - w for w > 1/3."""
    a, b = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    proposals = collect_proposals([a, a, b], log_likelihood=[-2.0, np.nan, -1.0])
    assert vote(proposals, "likelihood", likelihood=_weight(0.33)) == [0, 1]
    assert vote(proposals, "likelihood", likelihood=_weight(0.34)) == [1, 0]
    assert vote(proposals, "likelihood", likelihood=_weight(0.34 / 4, "grid")) == [1, 0]
    assert vote(proposals, "likelihood", likelihood=_weight(0.33 / 4, "grid")) == [0, 1]
    assert vote(proposals, "likelihood", views=2, likelihood=_weight(9.0)) == [0]


def test_of_several_networks_the_mean_of_those_known_counts():
    a, b = GRIDS[:2]
    proposals = collect_proposals([a, b, a, b], log_likelihood=[-2.0, np.nan, -1.0, -3.0])
    assert proposals.log_likelihood.tolist() == [-1.5, -3.0]


def test_the_weight_is_chosen_by_what_it_scores_and_small_where_equal():
    answer, other, third = GRIDS[0], GRIDS[1], GRIDS[2]
    likely = collect_proposals([other, third, other, third, answer], log_likelihood=[-1.0, -1.0, np.nan, np.nan, -0.5])
    replay = Replay({"a": [answer]}, {("a", 0): likely})
    assert replay.ranked
    rows = replay.likelihood_weights(False, 5, 100)
    assert len(rows) == 2 * len(WEIGHTS)
    assert rows[0]["weight"] == rows[0]["pass_at_2"] == 0
    for row in rows:  # 1/5 - w / 2 > 2/5 - w for w > 0.4, whatever the unit: one cell, but `third` has two.
        assert (row["pass_at_1"] == 1) == (row["weight"] > 0.4)
    best = best_weight(rows)
    assert (best["weight"], best["pass_at_2"]) == (1.0 if best["per"] == "cell" else best["weight"], 1.0)
    assert best["weight"] == min(row["weight"] for row in rows if row["pass_at_1"] == 1)
    rules = [row["rule"] for row in replay.rules(5, 100, _weight(1.0))]
    assert rules.count("likelihood") == 2
    plain = Replay({"a": [answer]}, {("a", 0): collect_proposals([other, answer])})
    assert not plain.ranked
    assert "likelihood" not in {row["rule"] for row in plain.rules(2, 100)}


def test_in_a_pool_a_grid_that_one_member_is_sure_of_is_not_its_least_likely():
    """A member that proposes one grid alone ranks nothing (`ranking.candidates`), the other one ranks its own two."""
    sure, other = [GRIDS[0]] * 8, [GRIDS[1]] * 3 + [GRIDS[2]] * 3 + [GRIDS[3]] * 2
    nats = [-0.1 if i == 8 else -0.9 if i == 11 else np.nan for i in range(16)]
    order = vote(collect_proposals(sure + other, log_likelihood=nats), "likelihood", likelihood=_weight(1.0))
    assert order == [0, 1, 2, 3], "the rarest counts as the least likely of those ranked"
