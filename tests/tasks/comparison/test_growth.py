"""The line of scores over minutes: against numpy's fit, brute force and a bootstrap that draws task by task."""

import numpy as np
import pytest

from tasks.comparison import growth_page
from tasks.comparison.growth import Run, frontier, line


def run(minutes, shares, name="r", size="smol"):
    shares = np.asarray(shares, dtype=np.float64)
    return Run(name, size, minutes, "a GPU", shares, (max(0.0, shares.mean() - 0.05), shares.mean() + 0.05))


def solved(share, tasks=200, first=0):
    """Shares of tasks of which so many are solved, starting with the first."""
    return np.roll(np.arange(tasks) < round(share * tasks), first)


def test_the_frontier_is_of_runs_that_no_cheaper_one_reaches():
    draws = np.random.default_rng(0)
    for _ in range(200):
        runs = [run(float(draws.integers(1, 6)), draws.integers(0, 2, 8)) for _ in range(draws.integers(1, 8))]
        found = frontier(runs)
        best = {
            (r.minutes, r.shares.mean())
            for r in runs
            if not any(o.shares.mean() >= r.shares.mean() and o.minutes < r.minutes for o in runs)
            and not any(o.shares.mean() > r.shares.mean() and o.minutes == r.minutes for o in runs)
        }
        assert {(r.minutes, r.shares.mean()) for r in found} == best
        assert [r.minutes for r in found] == sorted({r.minutes for r in found})


def test_scores_on_a_line_give_that_line():
    runs = [run(minutes, solved(share)) for minutes, share in ((3.0, 0.1), (6.0, 0.2), (12.0, 0.3))]
    found = line([*runs, run(12.0, solved(0.05))], [24.0, 6.0])
    assert found.doubling.value == pytest.approx(0.1)
    assert {minutes: e.value for minutes, e in found.at.items()} == {24.0: pytest.approx(0.4), 6.0: pytest.approx(0.2)}
    assert found.runs == runs


def test_the_fit_and_its_interval_are_those_of_resampled_tasks():
    draws = np.random.default_rng(1)
    minutes, shares = [2.0, 3.0, 9.0, 20.0], [0.1, 0.22, 0.3, 0.36]
    runs = [run(m, solved(s, first=5 * i)) for i, (m, s) in enumerate(zip(minutes, shares, strict=True))]
    found = line(runs, [60.0])
    values = np.array([r.shares for r in runs])
    chosen = draws.integers(0, 200, (4000, 200))
    fits = [np.polyfit(np.log2(minutes), values[:, c].mean(1), 1) for c in chosen]
    slope, start = np.polyfit(np.log2(minutes), values.mean(1), 1)
    assert found.doubling.value == pytest.approx(slope)
    assert found.at[60.0].value == pytest.approx(start + slope * np.log2(60))
    ends = np.quantile([f[0] for f in fits], [0.025, 0.975])
    assert [found.doubling.low, found.doubling.high] == pytest.approx(list(ends), abs=0.003)
    ends = np.quantile([f[1] + f[0] * np.log2(60) for f in fits], [0.025, 0.975])
    assert [found.at[60.0].low, found.at[60.0].high] == pytest.approx(list(ends), abs=0.008)


def test_each_resample_has_a_frontier_of_its_own():
    draws = np.random.default_rng(2)
    runs = [run(m, draws.random(60) < s) for m, s in ((2.0, 0.3), (4.0, 0.4), (8.0, 0.38), (16.0, 0.5))]
    found = line(runs, [60.0])
    values, slopes = np.array([r.shares for r in runs]), []
    for _ in range(3000):
        drawn = values[:, draws.integers(0, 60, 60)]
        best = frontier([run(r.minutes, shares) for r, shares in zip(runs, drawn, strict=True)])
        if len(best) > 1:
            slopes.append(np.polyfit(np.log2([r.minutes for r in best]), [r.shares.mean() for r in best], 1)[0])
    ends = np.quantile(slopes, [0.025, 0.975])
    assert [found.doubling.low, found.doubling.high] == pytest.approx(list(ends), abs=0.01)


def test_one_run_gives_no_line():
    with pytest.raises(ValueError, match="two runs or more on the frontier, not 1"):
        line([run(1.0, solved(0.5)), run(2.0, solved(0.4))], [60.0])


def test_the_page_says_the_line_and_what_the_short_runs_foretold():
    given = [(4.0, 0.2, "b", "smol"), (2.0, 0.1, "a", "smol"), (3.0, 0.05, "w", "wide"), (16.0, 0.3, "c", "wide")]
    runs = [run(minutes, solved(share), name, size) for minutes, share, name, size in given]
    text = list(growth_page.section(runs))
    assert [row.split(" | ")[-1].removesuffix(" |") for row in text[2:6]] == ["a", "b", "w", "c"]
    assert "a, b, c." in text
    # By hand: offsets of log2 minutes from their mean 7/3 are -4/3, -1/3, 5/3.
    slope = (-4 * 10 - 20 + 5 * 30) / 3 / (42 / 9)
    assert any(row.startswith(f"Twice the minutes add {slope:.1f} [") for row in text)
    assert any("foretold 40.0 [" in row for row in text), "a and b: 10 points a doubling, two more doublings"
    assert text[-1] == "30.0 %."


def test_the_picture_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [run(2.0, solved(0.1)), run(30.0, solved(0.3), size="wide")]
    growth_page.draw(runs, tmp_path / "growth.png")
    growth_page.draw(runs, tmp_path / "again.png")
    data = (tmp_path / "growth.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "again.png").read_bytes()
