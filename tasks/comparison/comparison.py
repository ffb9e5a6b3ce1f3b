"""Compares experiments: scores with intervals, and for each pair whether the data show a difference.

Every number is computed from the scores per task, over the same tasks for all experiments. Nothing is ranked: rows
keep the given order, and a difference is reported only if the paired interval excludes zero and the paired test agrees.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.scoring.statistics import bootstrap_interval, holm, paired_difference, seed_error
from model.scoring.wording import caveats
from tasks.common.stage import StageError
from tasks.comparison.results import Result, find, group_seeds

RESAMPLES = 10_000
NO_DIFFERENCE = "no difference shown"


class Row(NamedTuple):
    """One experiment, its seeds pooled. Shares are 0..1."""

    label: str
    experiment: str
    seeds: tuple[int, ...]
    evaluation: str
    """checkpoint-evaluation."""
    n_tasks: int
    n_grids: int
    pass_at_1: float
    pass_at_2: float
    low: float
    high: float
    """95 % interval of pass@2 over tasks, and over seeds where there are several."""
    strict: float
    oracle: float
    sizes_correct: float
    missing: int
    """Test grids without an answer, over all seeds."""
    seed_scores: tuple[float, ...]
    """pass@2 of each seed."""
    minutes: float | None
    """Minutes of training, summed over the seeds; None if that of one seed is unknown."""
    device: str
    code: str
    caveats: tuple[str, ...]
    """What a reader must know before believing the score."""


class Pair(NamedTuple):
    """B compared with A over the same tasks."""

    a: str
    b: str
    difference: float
    """pass@2 of B minus pass@2 of A."""
    low: float
    high: float
    p: float
    p_holm: float
    """Adjusted for the number of pairs."""
    shown: bool
    verdict: str
    won: tuple[str, ...]
    """Tasks of which B solves a larger share than A."""
    lost: tuple[str, ...]
    factors: tuple[tuple[str, str, str], ...] | None
    """Parameter, value in A, value in B; None if the parameters of one are unknown."""

    def verdict_on(self, letter: str) -> str:
        """The verdict, where B has another letter among more than two."""
        return re.sub(r"^B\b", letter, self.verdict)


class Comparison(NamedTuple):
    """Scores, paired differences, and notes on what was left out."""

    rows: list[Row]
    pairs: list[Pair]
    notes: list[str]


def compare(
    names: Sequence[str],
    checkpoint: str = "best",
    evaluation: str = "votes",
    common: bool = False,
    apart: bool = False,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare the results that `names` name (see `results.find`). Raises StageError.

    Different task sets are refused, unless `common` restricts them to the shared tasks. Seeds of one setting are
    pooled unless `apart`.
    """
    results = [result for name in dict.fromkeys(names) for result in find(name, checkpoint, evaluation)]
    groups, notes = group_seeds(results, apart)
    tasks, more = _tasks(groups, common)
    values = [np.array([_values(result, tasks, "solved") for result in group]) for group in groups]
    labels = _labels(groups)
    rows = [_row(*item, tasks, resamples) for item in zip(labels, groups, values, strict=True)]
    pairs = []
    indices = list(itertools.combinations(range(len(groups)), 2))
    measured = [paired_difference(values[i], values[j], resamples) for i, j in indices]
    for (i, j), difference, p_holm in zip(indices, measured, holm([d.p for d in measured]), strict=True):
        change = values[j].mean(0) - values[i].mean(0)
        pairs.append(
            Pair(
                a=labels[i],
                b=labels[j],
                difference=difference.mean,
                low=difference.low,
                high=difference.high,
                p=difference.p,
                p_holm=p_holm,
                shown=difference.shown,
                verdict=_verdict(difference.shown, difference.mean, p_holm),
                won=tuple(task for task, by in zip(tasks, change, strict=True) if by > 1e-9),
                lost=tuple(task for task, by in zip(tasks, change, strict=True) if by < -1e-9),
                factors=_factors(groups[i][0], groups[j][0]),
            )
        )
    if any(len(row.seeds) == 1 for row in rows):
        notes.append("one seed: the interval is about that training, not about what another seed would have given")
    return Comparison(rows, pairs, notes + more)


def _tasks(groups: Sequence[Sequence[Result]], common: bool) -> tuple[list[str], list[str]]:
    """The tasks to compare over, and a note if some are left out."""
    results = [result for group in groups for result in group]
    sets = [{name: len(grids) for name, grids in result.score["tasks"].items()} for result in results]
    shared = {task for task, grids in sets[0].items() if all(counts.get(task) == grids for counts in sets)}
    if all(len(counts) == len(shared) for counts in sets):
        return sorted(shared), []
    counts = ", ".join(dict.fromkeys(f"{r.where}: {len(tasks)}" for r, tasks in zip(results, sets, strict=True)))
    if not common:
        raise StageError(
            f"the scores are over different tasks ({counts}; {len(shared)} shared), and cannot be compared; "
            "--common compares over the shared ones"
        )
    if not shared:
        raise StageError(f"the scores share no task ({counts})")
    return sorted(shared), [f"over the {len(shared)} shared tasks only ({counts})"]


def _values(result: Result, tasks: Sequence[str], key: str) -> NDArray[np.float64]:
    return np.array([np.mean([grid[key] for grid in result.score["tasks"][task]]) for task in tasks])


def _row(label: str, group: Sequence[Result], values: NDArray[np.float64], tasks: Sequence[str], resamples: int) -> Row:
    def mean(key: str) -> float:
        return float(np.mean([_values(result, tasks, key) for result in group]))

    low, high = bootstrap_interval(values.mean(0), resamples, spread=seed_error(values))
    grids = [grid for result in group for task in tasks for grid in result.score["tasks"][task]]
    seconds = [result.seconds for result in group if result.seconds is not None]
    first = group[0].score
    return Row(
        label=label,
        experiment=group[0].experiment,
        seeds=tuple(result.seed for result in group),
        evaluation=f"{first['checkpoint']}-{first['source']['evaluation_name']}",
        n_tasks=len(tasks),
        n_grids=len(grids) // len(group),
        pass_at_1=mean("attempt_1"),
        pass_at_2=float(values.mean()),
        low=low,
        high=high,
        strict=float((values == 1).mean()),
        oracle=mean("any_view"),
        sizes_correct=float(np.mean([grid["size"] for grid in grids])),
        missing=sum(grid["missing"] for grid in grids),
        seed_scores=tuple(float(score) for score in values.mean(1)),
        minutes=sum(seconds) / 60 if len(seconds) == len(group) else None,
        device=", ".join(sorted({result.device for result in group if result.device})),
        code=", ".join(dict.fromkeys(result.code for result in group if result.code)),
        caveats=tuple(dict.fromkeys(caveat for result in group for caveat in caveats(result.score))),
    )


def _verdict(shown: bool, difference: float, p_holm: float) -> str:
    if not shown:
        return NO_DIFFERENCE
    return f"B {'higher' if difference > 0 else 'lower'}" + ("; not after correction" if p_holm > 0.05 else "")


def _factors(a: Result, b: Result) -> tuple[tuple[str, str, str], ...] | None:
    """Parameters in which A and B differ, and the code if both commits are known."""
    if not a.parameters or not b.parameters:
        return None
    left, right = dict(a.parameters), dict(b.parameters)
    if a.code and b.code:
        left["code"], right["code"] = a.code, b.code
    keys = dict.fromkeys([*left, *right])
    return tuple(
        (key, left.get(key, "-"), right.get(key, "-")) for key in keys if left.get(key, "-") != right.get(key, "-")
    )


def _labels(groups: Sequence[Sequence[Result]]) -> list[str]:
    """Names of the experiments; equal names get the parameters in which they differ from the first."""
    several = len({_evaluated(group) for group in groups}) > 1
    names = [group[0].experiment + (f" {_evaluated(group)}" if several else "") for group in groups]
    labels = []
    for name, group in zip(names, groups, strict=True):
        first = groups[names.index(name)][0]
        changes = [] if group[0] is first else _factors(first, group[0]) or ()
        changed = [f"{key.split('.')[-1]}={value}" for key, _, value in changes if key != "code"]
        labels.append(f"{name} ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''})" if changed else name)
    if len(set(labels)) < len(labels):
        seeds = len({group[0].where for group in groups}) < len(groups)
        apart = [f"seed {group[0].seed}" if seeds else group[0].where for group in groups]
        labels = [f"{label} ({caveat})" for label, caveat in zip(labels, apart, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"{label} #{i + 1}" for i, label in enumerate(labels)]
    return labels


def _evaluated(group: Sequence[Result]) -> str:
    return f"{group[0].score['checkpoint']}-{group[0].score['source']['evaluation_name']}"
