"""Intervals and tests against brute force, exact distributions and simulated experiments."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp, ttest_ind

from model.scoring import statistics
from model.scoring.statistics import (
    Spread,
    bootstrap_interval,
    holm,
    paired_difference,
    permutation_p,
    seed_error,
)

EXPERIMENTS = 1000
RESAMPLES = 2000


def _difficulty(draws, tasks, mean):
    """Chances of being solved: most tasks are nearly never or nearly always solved, as in real runs."""
    return draws.beta(0.25, 0.25 * (1 - mean) / mean, size=tasks)


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
        values = _values(draws, _difficulty(draws, tasks, mean), draws.random(tasks) < 0.05)
        low, high = bootstrap_interval(values, RESAMPLES, seed)
        held += low <= mean <= high
    assert 0.93 <= held / EXPERIMENTS <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "mean"), [(400, 0.2), (120, 0.05)])
def test_no_difference_is_rarely_called_one(tasks, mean):
    draws = np.random.default_rng(2)
    shown = held = 0
    for seed in range(EXPERIMENTS):
        chances, two = _difficulty(draws, tasks, mean), draws.random(tasks) < 0.05
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
        chances = _difficulty(draws, 400, 0.2)
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


def test_seeds_are_not_more_tasks():
    """The same values three times over are no more evidence than once."""
    draws = np.random.default_rng(5)
    a, b = (draws.random(200) < 0.3).astype(float), (draws.random(200) < 0.4).astype(float)
    once = paired_difference(a, b, 5000)
    assert paired_difference(np.stack([a] * 3), np.stack([b] * 3), 5000) == once
    thrice = paired_difference(np.tile(a, 3), np.tile(b, 3), 5000)
    assert thrice.high - thrice.low < 0.7 * (once.high - once.low)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.0), (2, 0.01), (3, 0.0), (3, 0.01), (3, 0.02), (5, 0.02)])
def test_seeds_that_go_better_or_worse_are_no_difference(seeds, spread):
    """Two experiments of one recipe, whose trainings vary as a whole by a standard deviation of `spread`."""
    draws = np.random.default_rng(6)
    shown = of_tasks_alone = 0
    for seed in range(EXPERIMENTS):
        chances = _difficulty(draws, 400, 0.2)
        a, b = draws.random((2, seeds, 400)) < [
            [_lifted(chances, spread * draws.standard_normal()) for _ in range(seeds)] for _ in range(2)
        ]
        shown += paired_difference(a.astype(float), b.astype(float), 1000, seed).shown
        of_tasks_alone += paired_difference(a.mean(0), b.mean(0), 1000, seed).shown
    assert shown <= 0.05 * EXPERIMENTS
    if spread:
        assert of_tasks_alone > 1.5 * shown


def _lifted(chances, by):
    return chances + (by / 0.8 * (1 - chances) if by > 0 else by / 0.2 * chances)


def test_the_seed_error_is_what_seeds_add():
    draws = np.random.default_rng(7)
    found = [seed_error(_two_way(draws, 0.03)).error ** 2 for _ in range(3000)]
    assert np.mean(found) == pytest.approx(0.03**2 / 4, rel=0.1)
    assert seed_error(np.zeros((1, 50))).error == 0


def _two_way(draws, spread):
    """(4 seeds, 100 tasks): seeds by `spread`, tasks and chance beside."""
    return (
        0.5
        + spread * draws.standard_normal((4, 1))
        + 0.3 * draws.standard_normal((1, 100))
        + 0.1 * (draws.standard_normal((4, 100)))
    )


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


@pytest.mark.parametrize("freedom", [1, 4, 30])
def test_few_seeds_stretch_an_interval_to_students(freedom):
    """Means that vary as much as the seeds do: the quantiles are Student's at their common degrees of freedom."""
    draws = np.random.default_rng(9)
    means, error = 0.4 + 0.03 * draws.standard_normal(400_000), 0.04
    spread = Spread(error, 0.05**4 / freedom)
    found = statistics._spread(means, spread, 3)
    assert found.mean() == pytest.approx(0.4, abs=1e-3)
    for level in (0.025, 0.975):
        assert np.quantile(found, level) == pytest.approx(0.4 + 0.05 * t(freedom).ppf(level), rel=0.01)
    assert statistics._spread(means, Spread(0.0, 1.0), 3) is means


def test_two_seeds_widen_the_interval_of_a_difference():
    """Both recipes are as good on average; one of the two trainings of each went better on every task."""
    tasks = np.linspace(0.1, 0.6, 60)
    close, apart = np.stack([tasks, tasks + 0.001]), np.stack([tasks, tasks + 0.2])
    alone = paired_difference(close, close + 0.05, 2000)
    varied = paired_difference(apart, apart + 0.05, 2000)
    assert (alone.shown, varied.shown) == (True, False)
    assert varied.mean == pytest.approx(alone.mean) == pytest.approx(0.05)
    assert varied.p > 0.05 >= alone.p
    assert varied.low < -0.1 < 0.2 < varied.high
    # Seeds that differ by d in two trainings: the mean of them has the error d / 2.
    assert seed_error(apart).error == pytest.approx(0.1)
    assert seed_error(apart).doubt == pytest.approx(0.1**4)
    assert seed_error(apart[:1]) == seed_error(apart[:, :1]) == statistics.NO_SPREAD


def test_seeds_that_agree_on_average_on_every_task_still_vary():
    """Two seeds, each right where the other is wrong: their means agree with the other experiment's everywhere."""
    a = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = paired_difference(a, np.full((1, 4), 0.5), RESAMPLES)
    assert seed_error(a).error == pytest.approx(0.5)
    assert found.low < -0.9
    assert found.high > 0.9


def test_trainings_that_answer_in_two_ways_are_compared_each_with_itself():
    """Whole trainings vary by ten points, what a second way of answering adds to each by none."""
    draws = np.random.default_rng(10)
    a = np.array([[0.3], [0.4], [0.5]]) + 0.2 * draws.random((1, 60))
    b = a + 0.02 * draws.standard_normal((1, 60)) + 0.02
    itself, one = paired_difference(a, b, 2000, paired_seeds=True), paired_difference(a[0], b[0], 2000)
    assert (itself.low, itself.high) == pytest.approx((one.low, one.high), abs=1e-6)
    assert itself.shown
    assert not paired_difference(a, b, 2000).shown
    with pytest.raises(ValueError, match="3 and 2 seeds"):
        paired_difference(a, b[:2], 100, paired_seeds=True)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "varies"), [(2, 0.0), (2, 0.01), (3, 0.01), (3, 0.02), (5, 0.02)])
def test_two_ways_of_answering_that_are_as_good_are_rarely_told_apart(seeds, varies):
    """Trainings that vary by three points answer in two ways; how much better the second goes `varies` by training."""
    draws = np.random.default_rng(11)
    shown = of_tasks_alone = 0
    for seed in range(EXPERIMENTS):
        chances = _difficulty(draws, 400, 0.2)
        first = [_lifted(chances, 0.03 * draws.standard_normal()) for _ in range(seeds)]
        second = [_lifted(own, varies * draws.standard_normal()) for own in first]
        a, b = (draws.random((2, seeds, 400)) < np.array([first, second])).astype(float)
        shown += paired_difference(a, b, 1000, seed, paired_seeds=True).shown
        of_tasks_alone += paired_difference(a.mean(0), b.mean(0), 1000, seed).shown
    assert shown <= 0.05 * EXPERIMENTS
    if varies:
        assert of_tasks_alone > 1.5 * shown


def test_how_much_the_differences_of_trainings_vary_is_doubt():
    """Both ways of answering are as far apart on average; in one case a training gains twice as much as the other."""
    tasks = np.linspace(0.1, 0.6, 60)
    a = np.stack([tasks, tasks])
    alike, apart = a + np.array([[0.05], [0.05]]), a + np.array([[0.033], [0.067]])
    of_alike, of_apart = (paired_difference(a, b, 2000, paired_seeds=True) for b in (alike, apart))
    assert (of_alike.shown, of_apart.shown) == (True, False)
    # Tasks vary by nothing: Student's interval of the two differences.
    half = t(1).ppf(0.975) * 0.017
    assert (of_apart.low, of_apart.high) == pytest.approx((0.05 - half, 0.05 + half), rel=0.1)


@pytest.mark.parametrize(("seeds", "widest"), [(2, 1), (3, 2)])
def test_an_interval_is_finite_where_seeds_differ_by_little_more_than_tasks_explain(seeds, widest):
    """The freedom of Satterthwaite's formula would be 0.4 for two seeds; it is never below that of the seeds."""
    a = np.zeros((seeds, 400))
    a[0, :100] = 1
    a[1:, 14:108] = 1
    b = a.copy()
    b[:, 200] = 1
    found = paired_difference(a, b, 20_000)
    error = np.hypot(np.hypot(seed_error(a).error, seed_error(b).error), (b - a).mean(0).std() / 20)
    assert (found.high - found.low) / 2 == pytest.approx(t(widest).ppf(0.975) * error, rel=0.05)
