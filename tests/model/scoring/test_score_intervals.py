"""The intervals inside a score resample tasks, not grids: against the binomial distribution of solved tasks."""

import numpy as np
import pytest
from scipy.stats import binom

from model.scoring.proposals import collect_proposals
from model.scoring.scores import score

TASKS, GRIDS = 20, 4
RIGHT = {"ci95_pass_at_1": 4, "ci95": 8, "ci95_strict": 8, "ci95_oracle": 13}
"""Tasks that each measure finds solved, of 20 with all their grids right or none."""


@pytest.fixture(scope="module")
def result():
    answer, wrong = np.ones((2, 3), np.uint8), np.zeros((2, 3), np.uint8)
    solutions = {f"{i:08x}": [answer] * GRIDS for i in range(TASKS)}
    attempts, views = {}, {}
    for i, name in enumerate(solutions):
        for test in range(GRIDS):
            first, second = i < RIGHT["ci95_pass_at_1"], i < RIGHT["ci95"]
            attempts[name, test] = [answer if first else wrong, answer if second else wrong]
            views[name, test] = collect_proposals([answer if i < RIGHT["ci95_oracle"] else wrong])
    return score(solutions, attempts, views, 40_000)


@pytest.mark.parametrize("name", RIGHT)
def test_the_interval_is_the_binomial_one_over_tasks(result, name):
    distribution = binom(TASKS, RIGHT[name] / TASKS)
    expected = [distribution.ppf(0.025) / TASKS, distribution.ppf(0.975) / TASKS]
    assert result[name] == pytest.approx(expected, abs=1e-9)
    over_grids = binom(TASKS * GRIDS, RIGHT[name] / TASKS).ppf(0.975) / (TASKS * GRIDS)
    assert result[name][1] > over_grids + 0.05


def test_each_interval_is_of_its_own_measure(result):
    for share, interval in (
        ("pass_at_1", "ci95_pass_at_1"),
        ("pass_at_2", "ci95"),
        ("strict", "ci95_strict"),
        ("oracle", "ci95_oracle"),
    ):
        assert result[share] == RIGHT[interval] / TASKS


def test_strict_needs_every_grid_and_its_interval_too():
    answer, wrong = np.ones((1, 2), np.uint8), np.zeros((1, 2), np.uint8)
    solutions = {f"{i:08x}": [answer] * 2 for i in range(TASKS)}
    attempts = {
        (name, test): [answer if test or i < 5 else wrong] for i, name in enumerate(solutions) for test in (0, 1)
    }
    result = score(solutions, attempts, {}, 40_000)
    assert result["pass_at_2"] == (5 + 15 / 2) / TASKS
    distribution = binom(TASKS, 5 / TASKS)
    expected = [distribution.ppf(0.025) / TASKS, distribution.ppf(0.975) / TASKS]
    assert result["ci95_strict"] == pytest.approx(expected, abs=1e-9)
