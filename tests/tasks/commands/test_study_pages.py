"""The page of a study: every score and claim of made-up results, in its table; and the drawing of a made-up task."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.scoring.proposals import collect_proposals
from tasks.commands import claims, draw_task
from tasks.commands.claims import Claim, Study
from tasks.reporting.drawing import Strip
from tests.conftest import experiment


def score(solved: list[int], **fields: Any) -> dict[str, Any]:
    share = sum(solved) / len(solved)
    tasks = {f"{i:08}": [{"solved": bool(value)}] for i, value in enumerate(solved)}
    given = {"pass_at_1": share / 2, "pass_at_2": share, "oracle": 0.9, "sizes_correct": 0.8, "weights": "ema"}
    of = {"dataset": "aa1", "n_tasks": len(solved), "n_grids": len(solved) + 1}
    return {
        "tasks": tasks,
        **of,
        **given,
        "ci95": [share - 0.125, share + 0.125],
        "grids_solved": sum(solved),
        **fields,
    }


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two kept results, of which b solves 36 of 40 tasks and a four."""
    monkeypatch.chdir(tmp_path)
    solved = {"v1-smol-aa1": [1] * 4 + [0] * 36, "v3-smol-aa1": [0] * 4 + [1] * 36}
    costs = {"seconds": 90, "commit": 12345678}, {"seconds": 30, "gpu_shared": True}
    for name, cost in zip(solved, costs, strict=True):
        (tmp_path / "kept" / name).mkdir(parents=True)
        (tmp_path / "kept" / name / "cost.json").write_text(json.dumps(cost))
        for pair in ("final-votes", "best-votes"):
            (tmp_path / "kept" / name / f"{pair}.parquet").touch()
    monkeypatch.setattr(claims, "_score", lambda path: score(solved[path.parent.name]))
    (tmp_path / "docs" / "studies").mkdir(parents=True)
    rows = [
        ("c1", "higher", "v1-smol-aa1/final-votes", "v3-smol-aa1/final-votes"),
        ("c2", "lower", "v1-smol-aa1/final-votes", "v1-smol-aa1/best-votes"),
    ]
    text = "".join(f"- {{claim: {c}, expects: {e}, a: {a}, b: {b}}}\n" for c, e, a, b in rows)
    names = "[v1-smol-aa1, v3-smol-aa1]"
    head = f"title: X\nresults: {names}\nfigure: docs/x.png\nclaims:\n"
    (tmp_path / "docs/studies/x-claims.yaml").write_text(head + text)
    return tmp_path


def test_a_page_has_every_score_and_claim(study: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(claims, "draw", lambda folders, scores, path: drawn.append((folders, path)))
    claims.main(None, study / "kept", study / "docs" / "studies")
    page = study / "docs" / "studies" / "x.md"
    assert capsys.readouterr().out == f"written: {page}, {study / 'docs' / 'x.png'}\n"
    assert drawn == [(["v1-smol-aa1", "v3-smol-aa1"], study / "docs" / "x.png")]
    lines = page.read_text().splitlines()
    assert lines[0] == "# X"
    assert "40 tasks of ARC-AGI-1's public evaluation set (41 grids), one training a row" in lines[3]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| v")]
    expected = ["v1-smol-aa1", "best-votes", "ema", "5.0", "10.0", "-2.5–22.5", "90.0", "80.0", "4"]
    assert rows[0] == [*expected, "1.5 min", "`1234567`"]
    assert [row[:2] for row in rows] == [
        [n, p] for n in ("v1-smol-aa1", "v3-smol-aa1") for p in ("best-votes", "final-votes")
    ]
    assert rows[2][9:] == ["0.5 min, GPU shared", "`-`"]
    heads = [line for line in lines if set(line) == {"|", "-"}]
    assert [head.count("|") - 1 for head in heads] == [11, 8]
    shown, none = (line for line in lines if line.startswith(("| c1", "| c2")))
    pair = "`v3-smol-aa1/final-votes` against `v1-smol-aa1/final-votes`"
    assert re.match(rf"\| c1 \| {pair} \| \+80\.0 \| \+\d+\.\d to ", shown)
    assert shown.endswith("| 36 | 4 | holds |")
    assert none.endswith("| 1.0000 | 0 | 0 | inconclusive (no difference at all) |")


@pytest.mark.slow
def test_a_study_of_growth_has_its_trainings_by_size_and_minutes(study: Path) -> None:
    for name, size in (("v1-smol-aa1", "tiny"), ("v3-smol-aa1", "smol")):
        (study / "kept" / name / "experiment.yaml").write_text(f"size: {size}\n")
        cost = json.loads((study / "kept" / name / "cost.json").read_text())
        cost |= {"device": "GPU 1", "seconds": 240 if size == "smol" else cost["seconds"]}
        (study / "kept" / name / "cost.json").write_text(json.dumps(cost))
    file = study / "docs/studies/x-claims.yaml"
    file.write_text(file.read_text().replace("figure: docs/x.png", "growth: docs/y.png"))
    claims.main([file], study / "kept", study / "docs" / "studies")
    assert (study / "docs" / "y.png").read_bytes()[:4] == b"\x89PNG"
    assert not (study / "docs" / "x.png").exists()
    page = (study / "docs/studies/x.md").read_text()
    assert "| smol | 4.0 | GPU 1 | 90.0 | 77.5–102.5 | v3-smol-aa1 |\n| tiny | 1.5 | GPU 1 | 10.0" in page
    assert f"Twice the minutes add {80 / np.log2(4 / 1.5):.1f} [" in page


def test_the_picture_has_ours_and_the_labs_highest(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    told = ((7, "v3/smol/aa1"), (9, "v3/smol/aa1"), (8, "v3/big/aa1"))
    published = [SimpleNamespace(score=share, experiment=name) for share, name in told]
    monkeypatch.setattr("tasks.commands.claims.facts.load", lambda: SimpleNamespace(published=published))
    figures: list[Any] = []
    monkeypatch.setattr(plt, "close", figures.append)
    scores = {f"{name}/final-votes": score([1, 0, 0, 0]) for name in ("v1-smol-aa1", "v3-smol-aa1")}
    claims.draw(["v1-smol-aa1", "v3-smol-aa1", "v6-smol-aa1"], scores, study / "x.png")
    monkeypatch.undo()
    (axes,) = figures[0].axes
    assert (study / "x.png").read_bytes()[:4] == b"\x89PNG"
    drawn = [(line.get_marker(), line.get_xydata().tolist()) for line in axes.lines if len(line.get_xdata())]
    crosses = [points for marker, points in drawn if marker == "x"]
    assert crosses == [[[9.0, 0.0]]], "of the same version, size and data set; the first experiment is on top"
    points = [points[0] for marker, points in drawn if marker == "o"]
    assert points == [[25.0, 0.0], [25.0, 1.0]]
    (bar, _) = (collection.get_segments()[0].tolist() for collection in axes.collections)
    assert bar == [[12.5, 0.0], [37.5, 0.0]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["v3-smol", "v1-smol"]
    assert axes.get_xlim()[0] == 0
    plt.close(figures[0])


def test_claims_need_title_results_and_the_words_higher_or_lower(study: Path) -> None:
    read = claims.read_claims(study / "docs/studies/x-claims.yaml")
    first = Claim("c1", "higher", ("v1-smol-aa1/final-votes",), ("v3-smol-aa1/final-votes",))
    assert read == Study("X", ["v1-smol-aa1", "v3-smol-aa1"], [first, read.claims[1]], "docs/x.png", "")


GRIDS = [np.full((1, 2), i, dtype=np.uint8) for i in range(6)]


def test_a_vote_shows_the_heaviest_grids_with_views_and_confidence() -> None:
    confidence = np.linspace(0.0, 1.0, 11).tolist()
    other = np.zeros((3, 3), dtype=np.uint8)
    given = collect_proposals([*[GRIDS[0]] * 6, *GRIDS[1:], other], confidence=[*confidence, 1.0])
    strip = draw_task._vote(given, experiment(score={"rule": "most-frequent", "size_first": True}).score)
    assert strip.heading == "vote (most-frequent, size first): 7 grids, 1 more"
    assert len(strip.grids) == 6
    label, grid = strip.grids[0]
    assert label == f"6 of 12 views\nconfidence {np.linspace(0, 1, 11)[:6].mean():.2f}"
    assert (grid == GRIDS[0]).all()


def test_the_denoising_shows_the_kept_steps_of_view_0() -> None:
    frames = [np.full((1, 2), i, dtype=np.uint8).tobytes() for i in range(3)]
    row = {"view": 0, "attempt": 1, "grid": GRIDS[0], "frames": frames, "change": [0.5] * 4, "last_changed_step": 3}
    row["confidences"] = [0.1, 0.2, 0.3, 0.4]
    frame = pd.DataFrame([row | {"view": 1}, row, row | {"attempt": 0}])
    first, second = draw_task._denoising(frame, votes=False)
    assert [strip.heading for strip in (first, second)] == [
        f"denoising of attempt {n}, last change at step 3" for n in (1, 2)
    ]
    assert [label for label, _ in first.grids] == [
        "step 0\nnoise",
        "step 2\nconfidence 0.20",
        "step 4\nconfidence 0.40",
    ]
    assert [grid[0, 0] for _, grid in first.grids] == [0, 1, 2]
    assert draw_task._denoising(frame, votes=True)[0].heading.startswith("denoising of view 0")


def test_a_drawing_has_every_grid_and_label_in_rows_that_do_not_overlap() -> None:
    wide = np.zeros((2, 6), dtype=np.uint8)
    strips = [Strip("first", [("input", wide), ("a\nb", wide.T)]), Strip("second", [("x", wide)])]
    text = draw_task.svg("the title", strips)
    for word in ("the title", "first", "second", "input", "x"):
        assert f">{word}<" in text
    uses = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', text)]
    assert len(uses) == 3
    (x0, y0), (x1, y1), (x2, y2) = uses
    assert x1 >= x0 + 5.0, "beside the first, which is 5 wide"
    assert y1 == pytest.approx(y0 + 0.3), "below a label of two lines"
    assert x2 == x0
    assert y2 >= y1 + 5.0, "below the second, which is 5 high"
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert size
    assert float(size[1]) >= 20.0
    assert float(size[2]) >= y2 + 5.0 * 2 / 6
