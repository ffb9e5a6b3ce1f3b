"""Asking views in rounds, until the vote of a test input is decided.

With n_g votes for grid g so far, of two grids the one with more votes leads, of equal ones that of the earlier view.
With r views left, the k-th grid is decided if it stays ahead of every other one below it, seen or not yet seen, even if
that one gets `swing` r further votes and it gets none. With swing 1 no outcome of the remaining views can change the
leading grids or their order under the vote rule 'most-frequent'; a smaller one is a tolerance.
"""

from collections.abc import Sequence

from model.config.evaluation import EarlyStop
from model.puzzles.grids import Grid, grid_key


class Rounds:
    """Which answers to ask next. They are given in a fixed order by index."""

    def __init__(self, config: EarlyStop | None, asked: Sequence[tuple[int, int]]) -> None:
        """`asked` are pair and view of every answer; without `config` all are asked at once."""
        self._config = config
        self._waiting: dict[int, list[int]] = {}
        for i, (pair, _) in sorted(enumerate(asked), key=lambda item: item[1]):
            self._waiting.setdefault(pair, []).append(i)
        self._votes: dict[int, dict[tuple[tuple[int, ...], bytes], tuple[int, int]]] = {}
        self._answers = len(asked)
        self.done = 0
        """Answers that were asked, or need not be, before the round that `next` gave last."""

    def next(self) -> list[int]:
        """Indices of the answers of the next round, none if all votes are decided; before it, `count` the last ones."""
        self.done = self._answers - sum(map(len, self._waiting.values()))
        if self._config is None:
            round_, self._waiting = [i for left in self._waiting.values() for i in left], {}
            return sorted(round_)
        round_ = []
        for pair, left in list(self._waiting.items()):
            if decided(list(self._votes.get(pair, {}).values()), len(left), self._config):
                del self._waiting[pair]
                continue
            round_ += left[: self._config.round]
            self._waiting[pair] = left[self._config.round :]
        self.done = self._answers - sum(map(len, self._waiting.values())) - len(round_)
        return sorted(round_)

    def count(self, pair: int, view: int, grid: Grid) -> None:
        """Count the vote of a view."""
        if self._config is None:
            return
        votes, key = self._votes.setdefault(pair, {}), grid_key(grid)
        number, first = votes.get(key, (0, view))
        votes[key] = number + 1, min(first, view)


def decided(votes: Sequence[tuple[int, int]], left: int, config: EarlyStop) -> bool:
    """Whether `left` more views, later than all so far, are not needed; `votes` are number and first view of grids."""
    order = sorted(votes, key=lambda vote: (-vote[0], vote[1]))
    reach = config.swing * left
    for k in range(config.attempts if left else 0):
        if k >= len(order):
            return False  # Any grid that comes will be this one.
        # Of those below, the next has the most votes and, of equal ones, the earliest view; an unseen one is later.
        below, earlier = (order[k + 1][0], order[k][1] < order[k + 1][1]) if k + 1 < len(order) else (0, True)
        lead = order[k][0] - below
        if lead < reach or (lead == reach and not earlier):
            return False
    return True
