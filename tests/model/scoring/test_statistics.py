"""Intervals and tests against brute force, exact distributions and simulated experiments."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp, ttest_ind

from model.scoring import statistics
from model.scoring.statistics import bootstrap_interval, holm, paired_difference, permutation_p
from tests.support.simulated_tasks import difficulty

EXPERIMENTS = 1000
RESAMPLES = 2000


def _values(draws, chances, two_grids):
    """Shares of test grids solved; the tasks `two_grids` have two."""
    first, second = draws.random((2, len(chances))) < chances
    return np.where(two_grids, (first + second.astype(float)) / 2, first)


@pytest.mark.slow
def test_resampling_counts_is_resampling_tasks():
    draws = np.random.default_rng(0)
    values = draws.choice([0, 0.5, 1], p=[0.7, 0.1, 0.2], size=60)
    means = values[draws.integers(60, size=(200_000, 60))].mean(1)
    assert bootstrap_interval(values, 200_000) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)


@pytest.mark.parametrize("tasks", [1, 13, 120, 400])
def test_none_and_all_solved_have_the_exact_interval(tasks):
    exact = binomtest(0, tasks).proportion_ci(0.95, "exact")
    assert bootstrap_interval(np.zeros(tasks), 100) == pytest.approx((exact.low, exact.high))
    exact = binomtest(tasks, tasks).proportion_ci(0.95, "exact")
    assert bootstrap_interval(np.ones(tasks), 100) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("tasks", [13, 120, 400])
def test_more_solved_tasks_raise_both_bounds(tasks):
    bounds = np.array([bootstrap_interval(1.0 * (np.arange(tasks) < solved), RESAMPLES) for solved in range(tasks + 1)])
    assert (np.diff(bounds, axis=0) >= -0.2 / tasks).all(), "but for the chance of resampling"
    assert bounds[1, 1] >= bounds[0, 1]


@pytest.mark.parametrize(
    ("tasks", "mean"), [(120, 0.1), *(pytest.param(400, mean, marks=pytest.mark.slow) for mean in (0.2, 0.05))]
)
def test_the_interval_holds_the_truth(tasks, mean):
    draws = np.random.default_rng(1)
    held = 0
    for seed in range(EXPERIMENTS):
        values = _values(draws, difficulty(draws, tasks, mean), draws.random(tasks) < 0.05)
        low, high = bootstrap_interval(values, RESAMPLES, seed)
        held += low <= mean <= high
    assert 0.93 <= held / EXPERIMENTS <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "mean"), [(400, 0.2), (120, 0.05)])
def test_no_difference_is_rarely_called_one(tasks, mean):
    draws = np.random.default_rng(2)
    shown = held = 0
    for seed in range(EXPERIMENTS):
        chances, two = difficulty(draws, tasks, mean), draws.random(tasks) < 0.05
        found = paired_difference(_values(draws, chances, two), _values(draws, chances, two), RESAMPLES, seed)
        shown += found.shown
        held += found.low <= 0 <= found.high
    assert shown <= 0.05 * EXPERIMENTS
    assert held >= 0.93 * EXPERIMENTS


@pytest.mark.slow
def test_a_true_difference_is_found_more_often_than_by_an_unpaired_test():
    """5 points at 400 tasks, where both experiments find the same tasks hard."""
    draws = np.random.default_rng(3)
    paired = unpaired = held = 0
    for seed in range(EXPERIMENTS):
        chances = difficulty(draws, 400, 0.2)
        lifted = chances + (1 - chances) * 0.05 / 0.8
        a, b = (_values(draws, c, np.zeros(400, dtype=bool)) for c in (chances, lifted))
        found = paired_difference(a, b, RESAMPLES, seed)
        paired += found.shown
        unpaired += ttest_ind(a, b, equal_var=False).pvalue <= 0.05
        held += found.low <= 0.05 <= found.high
    assert paired > 1.2 * unpaired
    assert 0.93 <= held / EXPERIMENTS <= 0.97


def test_the_p_value_is_that_of_all_sign_flips():
    draws = np.random.default_rng(4)
    for _ in range(5):
        values = draws.choice([-1, -0.5, 0, 0, 0.25, 1 / 3, 1], size=11)
        means = [np.mean(values * signs) for signs in itertools.product([-1, 1], repeat=11)]
        exact = np.mean(np.abs(means) >= abs(values.mean()) - 1e-9)
        assert permutation_p(values, 100) == pytest.approx(exact, abs=1e-9)


def test_signs_are_drawn_where_there_are_too_many_sums(monkeypatch):
    values = np.random.default_rng(5).normal(0.3, 1, size=200)
    p = permutation_p(values, 100_000)
    assert p == pytest.approx(ttest_1samp(values, 0).pvalue, abs=0.01)
    whole = np.array([1.0] * 40 + [-1.0] * 20 + [0.0] * 300)
    exact = permutation_p(whole, 100)
    assert exact == pytest.approx(binomtest(40, 60).pvalue)
    monkeypatch.setattr(statistics, "MOST_SUMS", 10)
    assert permutation_p(whole, 200_000) == pytest.approx(exact, abs=0.002)


def test_p_values_of_many_pairs_are_adjusted():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    # By the definition: the least level at which the step-down procedure rejects.
    p = np.random.default_rng(8).random(7) ** 3
    for level in np.linspace(0.001, 0.999, 200):
        rejected = np.zeros(7, dtype=bool)
        for rank, i in enumerate(np.argsort(p)):
            if p[i] > level / (7 - rank):
                break
            rejected[i] = True
        assert (rejected == (np.array(holm(list(p))) <= level)).all()


def test_agreement_on_every_task_is_not_certainty():
    found = paired_difference(np.array([0, 1] * 200), np.array([0, 1] * 200), 100)
    assert (found.mean, found.p, found.shown) == (0, 1, False)
    # At this share of tasks that differ, 400 tasks would miss them all 1 time in 40.
    assert found.high == -found.low == pytest.approx(0.0092, abs=1e-4)
    assert (1 - found.high) ** 400 == pytest.approx(0.025)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least one task"):
        bootstrap_interval(np.array([]), 100)
    with pytest.raises(ValueError, match="3 and 4 tasks"):
        paired_difference(np.zeros(3), np.zeros(4), 100)
