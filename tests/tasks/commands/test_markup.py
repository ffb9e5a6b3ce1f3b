"""Titles, paths and failures with square brackets, which rich would take for markup, are printed as they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.commands import draw_task, solve
from tasks.common import paths
from tasks.serving import solving
from tests.support.small_experiment import CHALLENGES, FILES, build, save_checkpoint

TITLE = "task 00576224: v8/tiny/aa1 extra=[arc-agi-2,rearc] seed 0"


@pytest.fixture(autouse=True)
def _wide(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def test_a_drawn_task(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(draw_task, "describe", lambda *_: (TITLE, [], ["a [/caveat]"]))
    Path("out[").mkdir()
    out = Path("out[/old].png")
    draw_task.main("00576224", output=out)
    assert capsys.readouterr().out.splitlines() == [TITLE, "a [/caveat]", f"drawn to {out}"]
    assert out.exists()


def test_a_solved_file(monkeypatch: Any, capsys: Any) -> None:
    save_checkpoint(build())
    Path("[old]").mkdir()
    file, out = Path("[old]/some.json"), Path("out[/old]/submission.json")
    file.write_text(json.dumps(FILES[CHALLENGES]))
    answer = solving.answer
    monkeypatch.setattr(solving, "answer", lambda *given: (*answer(*given)[:2], ["view 0: of shape [/2, 3]"]))
    solve.main(file, paths.CHECKPOINTS / "best", output=out, draw=False)
    shown = capsys.readouterr().out
    assert f"2 of 2 tasks answered by data/checkpoints/best, written to {out}\n" in shown
    assert "failed: view 0: of shape [/2, 3]\n" in shown
    assert out.exists()
