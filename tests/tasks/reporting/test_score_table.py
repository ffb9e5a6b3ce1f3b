"""The score table from score files that are made up: every cell, the settings in words, and what is no score."""

import io
import json
from typing import Any

import pytest
import yaml
from rich.console import Console

from model.scoring.wording import SELECTED_ON
from model.storage import sealed
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.reporting import score_table
from tests.conftest import experiment

SHARES = {"pass_at_1": 0.1234, "pass_at_2": 0.25, "strict": 0.2, "oracle": 0.375, "sizes_correct": 0.5}
COUNTS = {"grids_solved": 3, "n_grids": 12, "n_tasks": 10}
COPIES = {
    "grids": 6,
    "cells": 1234,
    "cells_copied": 617,
    "cells_to_keep": 1000,
    "cells_kept_right": 900,
    "cells_to_edit": 234,
    "cells_edited_right": 117,
}


STOP = {"round": 2, "attempts": 2, "swing": 0.5}


def made(checkpoint: str = "best", name: str = "votes", **evaluation: Any) -> dict[str, Any]:
    settings = experiment().evaluations[name].model_dump(mode="json") | evaluation
    return {
        "checkpoint": checkpoint,
        **SHARES,
        **COUNTS,
        "ci95": [0.05, 0.45],
        "selected_on_the_reported_set": False,
        "warnings": [],
        "copying": COPIES,
        "trajectory": {"last_change": 2.25, "early_locks": 1, "grids": 4, "early_lock_step": None},
        "source": {
            "experiment": experiment().name,
            "seed": 0,
            "step": 12,
            "weights": "ema",
            "checkpoint": "c" * 64,
            "data": "d" * 64,
            "evaluation_name": name,
            "evaluation": settings,
            "leaks": 0,
        },
    }


def written(score: dict[str, Any]) -> dict[str, Any]:
    paths.SCORES.mkdir(parents=True, exist_ok=True)
    sealed.write(paths.score(score["checkpoint"], score["source"]["evaluation_name"]), score)
    return score


@pytest.fixture(autouse=True)
def _workspace(workspace: Any) -> None:
    config = experiment(predict={"checkpoints": ["final", "best"], "evaluations": ["votes", "attempts"]})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))


def test_rows_are_in_the_order_of_the_matrix_with_the_values_of_their_files() -> None:
    for checkpoint in ("best", "final"):
        for name in ("attempts", "votes"):
            written(made(checkpoint, name) | {"n_tasks": len(checkpoint + name)})
    config = experiment(predict={"checkpoints": ["final", "best"], "evaluations": ["votes", "attempts"]})
    rows = score_table.rows(config)
    assert [row.name for row in rows] == ["final-votes", "final-attempts", "best-votes", "best-attempts"]
    assert [row.n_tasks for row in rows] == [10, 13, 9, 12]
    first = rows[0]
    assert (first.step, first.weights, first.digest, first.data) == (12, "ema", "c" * 64, "d" * 64)
    assert {name: getattr(first, name) for name in SHARES} == SHARES
    assert (first.ci95, first.grids_solved, first.n_grids) == ((0.05, 0.45), 3, 12)
    assert (first.subset, first.votes, rows[1].votes) == ("evaluation", 8, 0)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("votes", {}, "2 steps, draw, 8 views vote"),
        ("attempts", {"steps": 5}, "5 steps, draw, 2 attempts"),
        (
            "votes",
            {"answers": {"by": "repeated-votes", "repetitions": 2, "views": 7}},
            "2 steps, draw, 2 votes of 7 views",
        ),
        ("votes", {"subset": "training"}, "2 steps, draw, 8 views vote, training tasks"),
        ("votes", {"subset": "training", "limit": 1}, "2 steps, draw, 8 views vote, training tasks, first 1 tasks"),
        ("votes", {"stop_decided": STOP}, "2 steps, draw, 8 views vote, no more where a vote is decided"),
    ],
)
def test_settings_are_told_in_words(name: str, changes: dict[str, Any], says: str) -> None:
    score = made(name=name)
    evaluation = score["source"]["evaluation"]
    says = says.replace("draw", evaluation["sampler"])
    score["source"]["evaluation"] = evaluation | changes
    assert score_table._row(score).settings == says


def printed(table: Any, width: int = 84) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


TABLE = """\
a title
checkpoint             pass  pass      95 %          any view  sizes    grids
evaluation               @1    @2  interval  strict     right  right   solved  tasks
────────────────────────────────────────────────────────────────────────────────────
best-votes             12.3  25.0  5.0–45.0    20.0      37.5   50.0  3 of 12     10
a longer caveat of it
another
final-votes            12.3  25.0  5.0–45.0    20.0      37.5   50.0  3 of 12     10"""
PLAIN = """\
a title
checkpoint        pass  pass      95 %          any view  sizes    grids
evaluation          @1    @2  interval  strict     right  right   solved  tasks
───────────────────────────────────────────────────────────────────────────────
final-votes       12.3  25.0  5.0–45.0    20.0      37.5   50.0  3 of 12     10"""
LONG = """\
copies and trajectories of the first attempts
checkpoint          right         copied     kept    to   edited    last  lock    at
evaluation           size  cells       %  right %  edit  right %  change     %  step
────────────────────────────────────────────────────────────────────────────────────
best-votes              6  1,234    50.0     90.0   234     50.0     2.2  25.0     –
final-votes             6  1,234    50.0     90.0   234     50.0     3.0  75.0   1.5
a longer caveat of
it
another
halfway-votes           0      0       –        –     0        –       –     –     –"""
NARROW = """\
a title
 pass  pass      95 %          any view  siz…    grids
   @1    @2  interval  strict     right  rig…   solved  tas…
────────────────────────────────────────────────────────────
 12.3  25.0  5.0–45.0    20.0      37.5  50.0  3 of 12    10"""
CAVEATS = ("a longer caveat of it", "another")


def test_the_table_shows_every_share_and_count() -> None:
    one, two = (score_table._row(made(name)) for name in ("best", "final"))
    assert printed(score_table.draw("a title", [one._replace(caveats=CAVEATS), two])) == TABLE
    assert printed(score_table.draw("a title", [two])) == PLAIN
    assert printed(score_table.draw("a title", [two]), 60) == NARROW, "numbers never wrap"


def test_a_title_with_brackets_is_no_markup() -> None:
    for title in ("v8/tiny/aa1 extra=[arc-agi-2,rearc]", "v8/tiny/aa1 extra=[/rearc]"):
        assert printed(score_table.draw(title, [])).splitlines()[0] == title


def test_copies_and_trajectories_are_a_table_of_their_own() -> None:
    one = score_table._row(made())
    steps = {"last_change": 3.0, "early_locks": 3, "grids": 4, "early_lock_step": 1.5}
    other = score_table._row(made("final") | {"trajectory": steps})._replace(caveats=CAVEATS)
    none = score_table._row(made("halfway") | {"trajectory": None, "copying": dict.fromkeys(COPIES, 0)})
    assert printed(score_table.draw_behaviour([one, other, none])) == LONG
    narrow = printed(score_table.draw_behaviour([one]), 200).splitlines()
    assert narrow[-1] == "best-votes            6  1,234    50.0     90.0   234     50.0     2.2  25.0     –"


def test_by_itself_the_command_is_short_and_no_number_of_its_texts_is_coloured(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    for checkpoint in ("best", "final"):
        for name in ("attempts", "votes"):
            written(made(checkpoint, name) | {"warnings": ["12 of 'x'"] * (checkpoint == "best" and name == "votes")})
    score_table.main()
    assert "copies and trajectories" not in (text := capsys.readouterr().out)
    assert text.splitlines()[-1] == "open next: data/reports/report.html; make ui"
    score_table.main(long=True)
    assert capsys.readouterr().out.splitlines()[-2] == "best-votes: 12 of 'x'"


@pytest.mark.parametrize("long", [False, True])
def test_the_command_prints_what_to_open_and_the_long_form_warnings(long: bool, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    for checkpoint in ("best", "final"):
        for name in ("attempts", "votes"):
            written(
                made(checkpoint, name) | {"warnings": [f"{checkpoint} [/{i}]" for i in range(name == "votes" and 2)]}
            )
    score_table.main(long=long)
    text = capsys.readouterr().out
    assert text.splitlines()[0].rstrip() == f"{experiment().title}, seed 0, shares in %"
    assert text.endswith("open next: data/reports/report.html; make ui\n")
    said = [line for line in text.splitlines() if ": " in line and "open next" not in line]
    told = [f"{name}-votes: {name} [/{i}]" for name in ("final", "best") for i in (0, 1)]
    assert said == (told if long else [])
    assert ("copies and trajectories of the first attempts" in text) == long
    assert text.count("best-votes") == (2 + 2 if long else 1)
    assert SELECTED_ON not in text


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (None, "cannot be read: No such file or directory; run `dvc repro`"),
        ("{", "; run the stage score again"),
        ("{}", "; run the stage score again"),
        ({"source": {"seed": 0}}, "is no score (KeyError: 'experiment'); run the stage score again"),
        ({"source": 3}, "is no score (TypeError: 'int' object is not subscriptable); run the stage score again"),
    ],
)
def test_what_is_no_score_is_named(contents: Any, says: str) -> None:
    path = paths.score("best", "votes")
    paths.SCORES.mkdir()
    if isinstance(contents, str):
        path.write_text(contents)
    elif contents is not None:
        sealed.write(path, contents)
    with pytest.raises(StageError) as refused:
        score_table.read_score(experiment(), "best", "votes")
    assert str(refused.value).startswith(str(path))
    assert str(refused.value).endswith(says)


@pytest.mark.parametrize(("seed", "name"), [(1, None), (0, "v6/tiny/aa1-6x6")])
def test_a_score_of_another_experiment_is_named(seed: int, name: str | None) -> None:
    score = made()
    score["source"] |= {"seed": seed} | ({"experiment": name} if name else {})
    written(score)
    own = experiment().name
    with pytest.raises(StageError) as refused:
        score_table.read_score(experiment(), "best", "votes")
    assert str(refused.value) == (
        f"data/scores/best-votes.json belongs to {name or own} seed {seed}, not to {own} seed 0; run `dvc repro`"
    )
    assert json.loads(paths.score("best", "votes").read_text())["source"] == score["source"]
