"""The table, the words and the picture of how scores grow with the minutes of a training."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from model.scoring.wording import interval, percent
from model.storage.atomic import atomic_path
from tasks.comparison.growth import Estimate, Run, frontier, line

BEYOND = {60.0: "an hour", 480.0: "a night of eight hours"}
"""Minutes that are extrapolated to."""


def section(runs: Sequence[Run]) -> Iterator[str]:
    """Lines of Markdown: the runs by size, the line, how well it foretold its last run, and where it would lead."""
    yield "| size | minutes | device | pass@2 | 95 % | run |"
    yield "|---|---|---|---|---|---|"
    for run in sorted(runs, key=lambda run: (run.size, run.minutes)):
        cells = [run.size, f"{run.minutes:.1f}", run.device, percent(run.shares.mean()), interval(run.interval)]
        yield f"| {' | '.join(cells)} | {run.name} |"
    growth_line = line(runs, list(BEYOND))
    yield ""
    yield "The line goes through the runs that no cheaper one beats:"
    yield f"{', '.join(run.name for run in growth_line.runs)}."
    yield f"Twice the minutes add {_with_interval(growth_line.doubling)} points. It would reach"
    yield ", ".join(f"{_with_interval(growth_line.at[minutes])} % after {words}" for minutes, words in BEYOND.items())
    yield "(intervals over tasks only: one seed a run, and nothing of whether growth slows down)."
    last = growth_line.runs[-1]
    short = [run for run in runs if run.minutes <= last.minutes / 2]
    if len(frontier(short)) > 1:
        forecast = _with_interval(line(short, [last.minutes]).at[last.minutes])
        yield f"Those of at most half the minutes of its last run foretold {forecast} % for that one, which reached"
        yield f"{percent(last.shares.mean())} %."


def draw(runs: Sequence[Run], path: Path) -> None:
    """The runs with their intervals, one colour a size, and the line with its interval as far as it is extrapolated."""
    import matplotlib.pyplot as plt

    places = [float(m) for m in np.geomspace(min(run.minutes for run in runs), max(BEYOND), 60)]
    growth_line = line(runs, places)
    fig, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for number, size in enumerate(sorted({run.size for run in runs})):
        own = sorted((run for run in runs if run.size == size), key=lambda run: run.minutes)
        values = [100 * run.shares.mean() for run in own]
        ends = np.array([[100 * abs(bound - run.shares.mean()) for bound in run.interval] for run in own]).T
        minutes = [run.minutes for run in own]
        axes.errorbar(minutes, values, yerr=ends, label=size, color=f"C{number}", capsize=3, fmt="o:", linewidth=1)
    bands = np.array([(e.value, e.low, e.high) for e in growth_line.at.values()]).T * 100
    axes.plot(places, bands[0], color="0.4", linewidth=1.2, label="line through the best at each cost")
    axes.fill_between(places, bands[1], bands[2], color="0.4", alpha=0.15, linewidth=0)
    last = max(run.minutes for run in runs)
    axes.axvline(last, color="0.7", linewidth=0.8)
    axes.annotate("extrapolated", (last, 2), (4, 0), textcoords="offset points", color="0.4", fontsize=8)
    axes.set_xscale("log")
    ticks = [minutes for minutes in (1, 2, 5, 10, 20, 60, 180, 480) if places[0] <= minutes <= places[-1]]
    axes.set_xticks(ticks, [f"{minutes} min" if minutes < 60 else f"{minutes // 60} h" for minutes in ticks])
    axes.minorticks_off()
    axes.set(xlabel="GPU time of training", ylabel="pass@2 on ARC-AGI-1, %", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    with atomic_path(path) as temporary:
        fig.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    plt.close(fig)


def _with_interval(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} [{interval((estimate.low, estimate.high))}]"
