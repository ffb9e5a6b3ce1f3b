"""Stopping votes where they are decided, replayed on votes that are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.config.evaluation import EarlyStop
from tasks.commands import pool, stopping
from tasks.commands.pool import Member
from tasks.common.stage import StageError
from tasks.files import predictions
from tests.conftest import ROOT, experiment
from tests.support.kept_votes import put

RIGHT, WRONG, OTHER = (np.full((2, 3), colour, np.uint8) for colour in (1, 2, 3))


def member(tmp_path: Path, *votes: list[np.ndarray], **evaluation: Any) -> Member:
    """Tasks with these votes, whose right answer is RIGHT."""
    _, source = predictions.read(put(tmp_path / "final-votes.parquet", answers={"views": 8}, **evaluation))
    rows = [
        {"task": f"{task}", "test": 0, "view": view, "attempt": 0, "grid": grid, "size_log_probability": 0.0}
        | {"confidence": 1.0, "last_changed_step": 0, "log_likelihoods": None}
        for task, grids in enumerate(votes)
        for view, grid in enumerate(grids)
    ]
    solutions = {f"{task}": [RIGHT] for task in range(len(votes))}
    values = experiment().model_dump(mode="json")
    return Member(Path("votes"), "final", pd.DataFrame(rows), source, values, {}, None, solutions, {})


def test_votes_that_are_decided_stop_and_what_that_costs_is_counted(workspace: Path) -> None:
    """The first is decided after 4 of 8, the second after 7; in the third the later views would be a second attempt."""
    votes = [RIGHT] * 8, [WRONG, OTHER] * 4, [WRONG] * 5 + [RIGHT] * 3
    whole, stopped = stopping.replay(member(workspace, *votes), [EarlyStop(round=1, attempts=1, swing=1.0)])
    assert (whole.views, whole.cells, whole.won, whole.lost) == (1.0, 1.0, 0, 0)
    assert (whole.pass_at_1, whole.pass_at_2) == pytest.approx((1 / 3, 2 / 3))
    # Four of eight cannot be overtaken: of equal numbers the earlier view leads. Four to three neither, by the last.
    assert stopped.views == pytest.approx((4 + 7 + 4) / 24)
    assert (stopped.pass_at_1, stopped.pass_at_2) == pytest.approx((1 / 3, 1 / 3))
    assert (stopped.won, stopped.lost) == (0, 1)


def test_cells_are_those_of_the_grids_whatever_their_sides(workspace: Path) -> None:
    """30 x 30 cells are more than a byte holds."""
    large, small = np.ones((30, 30), np.uint8), np.ones((1, 1), np.uint8)
    votes = [large] * 8, [small, large] * 4
    (_, stopped) = stopping.replay(member(workspace, *votes), [EarlyStop(round=1, attempts=1, swing=1.0)])
    assert stopped.cells == pytest.approx((4 * 900 + 3 * 900 + 4) / (8 * 900 + 4 * 901))


def test_votes_that_stopped_already_are_refused(workspace: Path) -> None:
    given = member(workspace, [RIGHT] * 8, stop_decided={"round": 1, "attempts": 1, "swing": 1.0})
    with pytest.raises(StageError, match="holds votes that stopped"):
        stopping.replay(given, [])


def test_the_best_kept_result_loses_nothing_by_half_a_swing(capsys: pytest.CaptureFixture[str]) -> None:
    kept = ROOT / "docs/baselines/growth-mediom-deep-35min"
    stopping.main(str(kept), "final", "votes-measured", ["16,1,0.5"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["all", "100.0", "100.0", "41.2", "44.4"]
    assert lines[3] == ["16", "1", "0.5", "67.5", "71.6", "41.2", "44.4", "1", "1"]
    frame = pool.read(str(kept), "final", "votes-measured").frame
    assert len(frame) == 128 * 419
