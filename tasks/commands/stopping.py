"""`python -m tasks.commands.stopping NAME`: what stopping where votes are decided would have asked, and cost in score.

Replayed on the votes of a worktree or a kept result, by `model.inference.early_stop` and the stage `score`'s functions.
The time of an answer grows with its cells; `python -m tasks.commands.bench --like FILE --stop ...` measures it.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from model.config.evaluation import CheckpointName, EarlyStop, Score
from model.inference.early_stop import Rounds
from model.scoring.scores import attempts_of, score
from model.scoring.wording import percent
from tasks.benchmark.answering import stop_of
from tasks.commands import pool
from tasks.commands.claims import shares
from tasks.commands.import_results import filled
from tasks.commands.pool import Member
from tasks.common.stage import StageError, stage
from tasks.files.proposals import proposals

USUAL = ("16,2,1.0", "16,2,0.25", "16,1,1.0", "16,1,0.5", "16,1,0.25")
"""ROUND,ATTEMPTS,SWING, the most careful first."""
RESAMPLES = 100
"""The intervals are not shown."""


class Replayed(NamedTuple):
    """Votes that stopped. Shares are 0..1."""

    views: float
    """Share of the answers asked."""
    cells: float
    """Share of the cells of all answers."""
    pass_at_1: float
    pass_at_2: float
    won: int
    """Tasks with a higher share of solved grids than by all views."""
    lost: int


@stage("stopping")
def main(
    name: Annotated[str, typer.Argument(help="A worktree, a kept result, or a predictions file in either")],
    checkpoint: Annotated[CheckpointName, typer.Option(help="Of a folder")] = "final",
    evaluation: Annotated[str, typer.Option(help="Of a folder")] = "votes",
    stop: Annotated[list[str] | None, typer.Option(help="ROUND,ATTEMPTS,SWING; if none, the usual ones.")] = None,
) -> None:
    """Replay `stop_decided` on kept votes: the share of views and cells asked, and the score."""
    member = pool.read(name, checkpoint, evaluation)
    stops = [stop_of(text) for text in stop or USUAL]
    table = Table(title=f"{member.path.name}: of {len(member.frame)} votes", title_justify="left", box=None)
    for column in ("round", "attempts", "swing", "views %", "cells %", "pass@1 %", "pass@2 %", "won", "lost"):
        table.add_column(column, justify="right")
    for way, row in zip([None, *stops], replay(member, stops), strict=True):
        names = ("all", "", "") if way is None else (str(way.round), str(way.attempts), f"{way.swing:g}")
        shares = (percent(share) for share in row[:4])
        table.add_row(*names, *shares, *(("", "") if way is None else (str(row.won), str(row.lost))))
    Console(width=None if sys.stdout.isatty() else 100, highlight=False).print(table)


def replay(member: Member, stops: Sequence[EarlyStop]) -> list[Replayed]:
    """The score by all votes, then by those that each of `stops` asks. Raises StageError for votes that stopped."""
    config = member.source.evaluation
    if config.stop_decided:
        raise StageError(
            f"{member.path} holds votes that stopped, and not those that were not asked; take an evaluation without "
            "stop_decided"
        )
    frame = member.frame.reset_index(drop=True)
    pairs = frame.groupby(["task", "test"], sort=False).ngroup().tolist()
    views, grids = frame["view"].tolist(), frame["grid"].tolist()
    cells = np.array([grid.size for grid in grids])
    rule = Score.model_validate(filled("score", member.values))
    result: list[Replayed] = []
    before: np.ndarray | None = None
    for stop in (None, *stops):
        rounds, asked_rows = Rounds(stop, list(zip(pairs, views, strict=True))), []
        while batch := rounds.next():
            for i in batch:
                rounds.count(pairs[i], views[i], grids[i])
            asked_rows += batch
        proposed = proposals(frame.iloc[sorted(asked_rows)], config)
        attempts = attempts_of(proposed, config, rule.rule, rule.size_first, rule.views, rule.likelihood)
        scored = score(member.solutions, attempts, proposed, RESAMPLES)
        solved = shares(scored)
        before = solved if before is None else before
        result.append(
            Replayed(
                views=len(asked_rows) / len(frame),
                cells=float(cells[asked_rows].sum() / cells.sum()),
                pass_at_1=scored["pass_at_1"],
                pass_at_2=scored["pass_at_2"],
                won=int((solved > before).sum()),
                lost=int((solved < before).sum()),
            )
        )
    return result


if __name__ == "__main__":
    typer.run(main)
