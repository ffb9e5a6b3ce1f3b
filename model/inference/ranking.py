"""Candidates of each test input, the grids that most views propose, and their likelihoods (see likelihood.py).

The likelihoods stand at the answer of the earliest view that proposes the grid; votes may count them (the rule
'likelihood' of model/scoring/vote_rules.py).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.config.evaluation import Evaluation, Ranking
from model.inference import batching
from model.inference.answer import Answer
from model.inference.likelihood import log_likelihoods
from model.inference.view_packer import ViewPacker
from model.puzzles.grids import Grid, grid_key


class Candidate(NamedTuple):
    """A grid that some views of a test input propose."""

    answer: int
    """Which of the answers is the earliest that proposes it."""
    pair: int
    grid: Grid


def candidates(answers: Sequence[Answer], most: int) -> list[Candidate]:
    """The `most` most frequent distinct grids of each test input that has two or more; ties go to the earlier view."""
    votes: dict[int, dict[tuple[tuple[int, ...], bytes], list[int]]] = {}
    for i in sorted(range(len(answers)), key=lambda i: (answers[i].pair, answers[i].attempt, answers[i].view)):
        key = grid_key(answers[i].grid)
        votes.setdefault(answers[i].pair, {}).setdefault(key, []).append(i)
    ranked = []
    for pair, grids in votes.items():
        chosen = sorted(grids.values(), key=len, reverse=True)[:most]
        if len(chosen) > 1:  # A single one needs no rank.
            ranked += [Candidate(voters[0], pair, answers[voters[0]].grid) for voters in chosen]
    return ranked


def rank(
    packer: ViewPacker,
    answers: Sequence[Answer],
    config: Evaluation,
    ranking: Ranking,
    on_progress: Callable[[float], None] = lambda _: None,
) -> list[Answer]:
    """The answers, those of candidates with `log_likelihoods`, in batches of like length under the budget of rows.

    Raises RuntimeError where that of one candidate under one view cannot be computed.
    """
    chosen, available = candidates(answers, ranking.candidates), packer.available(config.task_row)
    asked = [
        (number, view)
        for number, candidate in enumerate(chosen)
        for view in range(min(ranking.views, config.views, int(available[candidate.pair])))
    ]
    lengths = [packer.length(chosen[number].pair, _size(chosen[number].grid)) for number, _ in asked]
    values: dict[int, dict[int, NDArray[np.float32]]] = {}
    failed: dict[int, str] = {}
    done = 0

    def score(batch: list[int]) -> NDArray[np.float32]:
        return _score(packer, [(chosen[asked[j][0]], asked[j][1]) for j in batch], config, ranking.levels)

    def keep(batch: list[int]) -> None:
        for j, of_levels in zip(batch, score(batch), strict=True):
            values.setdefault(asked[j][0], {})[asked[j][1]] = of_levels

    for batch in batching.batches(lengths, batching.ROWS[packer.device.type]):
        for _ in batching.bisect_failures(keep, batch, failed):
            pass
        done += len(batch)
        on_progress(done / len(asked))
    if failed:
        number, view = asked[min(failed)]
        task = packer.names[packer.dataset.pairs.task[chosen[number].pair]]
        raise RuntimeError(f"likelihood of a candidate of task {task} under view {view}: {failed[min(failed)]}")
    result = list(answers)
    for number, by_view in values.items():
        i = chosen[number].answer
        result[i] = answers[i]._replace(log_likelihoods=np.stack([by_view[view] for view in sorted(by_view)]))
    return result


def _score(
    packer: ViewPacker, asked: Sequence[tuple[Candidate, int]], config: Evaluation, levels: int
) -> NDArray[np.float32]:
    """Log-likelihoods of candidates, each under one view, (asked, levels)."""
    rows = [packer.row(c.pair, view, _size(c.grid), config.task_row) for c, view in asked]
    cells = torch.from_numpy(np.concatenate([c.grid.ravel() for c, _ in asked]).astype(np.int64)).to(packer.device)
    key = packer.key([(c.pair, view, 0) for c, view in asked])
    conditioning = packer.description.train.self_conditioning
    with packer.fast():
        packed = packer.pack(rows)
        # Target rows are cells in the order of the original grid, whose coordinates the view turns: so only colours do.
        clean = packer.data.view_colours[packed.examples.view[packed.target_example], cells]
        values = log_likelihoods(packer.network, packed, clean, packer.levels, conditioning, config, levels, key)
    return values.float().cpu().numpy()


def _size(grid: Grid) -> tuple[int, int]:
    return grid.shape[0], grid.shape[1]
