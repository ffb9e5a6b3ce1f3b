"""What differs between seeds, in intervals and tests, against Student's distribution and simulated trainings."""

import numpy as np
import pytest
from scipy.stats import t

from model.scoring import statistics
from model.scoring.statistics import Spread, bootstrap_interval, paired_difference, seed_error
from tests.support.simulated_tasks import difficulty

EXPERIMENTS = 1000
RESAMPLES = 2000


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
        chances = difficulty(draws, 400, 0.2)
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


@pytest.mark.parametrize("freedom", [1, 4, 30])
def test_few_seeds_stretch_an_interval_to_students(freedom):
    """Means that vary as much as the seeds do: the quantiles are Student's at their common degrees of freedom."""
    draws = np.random.default_rng(9)
    means, error = 0.4 + 0.03 * draws.standard_normal(400_000), 0.04
    spread = Spread(error, 0.05**4 / freedom)
    found = statistics._spread(means, spread, 3)
    assert np.median(found) == pytest.approx(0.4, abs=1e-3)
    for level, within in ((0.001, 0.1), (0.025, 0.03), (0.975, 0.03), (0.999, 0.1)):
        assert np.quantile(found, level) - 0.4 == pytest.approx(0.05 * t(freedom).ppf(level), rel=within)
    assert statistics._spread(means, statistics.NO_SPREAD, 3) is means


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
        chances = difficulty(draws, 400, 0.2)
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


def test_seeds_that_seem_alike_by_chance_may_still_vary():
    """Their scores vary less than tasks alone would make them; that the seeds do not vary is an estimate, too."""
    draws = np.random.default_rng(12)
    while True:
        b = (draws.random((3, 200)) < 0.5).astype(float)
        if seed_error(b).error == 0 < seed_error(b).doubt and 0.06 < b.mean() - 0.44 < 0.08:
            break
    a = np.full((1, 200), 0.44)
    of_three, of_their_mean = paired_difference(a, b, 20_000), paired_difference(a, b.mean(0), 20_000)
    assert of_three.seed_error == 0
    error = b.mean(0).std() / np.sqrt(200)
    freedom = error**4 / seed_error(b).doubt
    assert (of_three.high - of_three.low) / 2 == pytest.approx(t(max(freedom, 2)).ppf(0.975) * error, rel=0.05)
    assert of_three.p > 1.2 * of_their_mean.p


def test_an_interval_holds_no_impossible_share():
    """Two seeds, one of which diverged: Student's factor of one degree of freedom would reach beyond."""
    a, b = np.zeros((2, 120)), np.zeros((2, 120))
    a[:, :50], b[0, :55] = 1, 1
    low, high = bootstrap_interval(b.mean(0), 2000, spread=seed_error(b))
    assert 0 <= low < high <= 1
    found = paired_difference(a, b, 2000)
    assert -1 <= found.low < found.high <= 1


def test_rounding_of_means_is_no_difference():
    shares = [1 / 3, 2 / 3, 1.0]
    a = np.array([shares] * 40).T
    found = paired_difference(a, a[[2, 0, 1]], 1000)
    assert (found.mean, found.shown) == (0, False)
    assert found.low < 0 < found.high


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
