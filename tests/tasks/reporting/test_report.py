"""The page and the score table, read back as a browser would, against what the stages before wrote."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from model.storage import sealed
from tasks import report
from tasks.common import paths
from tasks.files import predictions, tables
from tasks.reporting import gallery, panels, score_table
from tests.support.report_fixture import (
    ANSWERS,
    STEPS,
    TASKS,
    VIEWS,
    WRONG,
    built,  # noqa: F401
    captions,
    grid,  # noqa: F401
    house,  # noqa: F401
    other,
    part,
    predict,  # noqa: F401
    read,
    shown,
)  # noqa: F401, RUF100


@pytest.mark.slow
def test_the_page_needs_nothing_but_itself(house):
    house(leaks=1, selected=True)
    page = read()
    text = paths.PAGE.read_text()
    links = {f"https://arcprize.org/play?task={name}" for name in TASKS}
    assert set(re.findall(r"https?:[^\"]*", text)) <= links
    assert {e.attributes["href"] for e in page.find("a") if not e.attributes["href"].startswith("#")} == links
    assert [script.attributes for script in page.find("script")] == [{}]
    assert not re.search(r"fetch\(|import\b|XMLHttp|localStorage", page.find("script")[0].text)
    assert not page.find("link")
    assert not re.search(r"@import|url\((?!#)", text)
    references = [
        e.attributes[key]
        for e in page.walk()
        for key in ("src", "href", "xlink:href")
        if key in e.attributes and e.tag != "a"
    ]
    assert references
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in references)


@pytest.mark.slow
def test_the_table_shows_the_numbers_of_the_scores(house):
    now = house()
    rows = [[cell.text for cell in row.find("td")] for row in part(read(), "scores").find("tr") if row.find("td")]
    matrix = [(c, e) for c in now.predict.checkpoints for e in now.predict.evaluations]
    assert len(rows) == len(matrix)
    for row, (checkpoint, evaluation) in zip(rows, matrix, strict=True):
        result = json.loads(paths.score(checkpoint, evaluation).read_text())
        low, high = (f"{100 * end:.1f}" for end in result["ci95"])
        assert row[0].startswith(f"{checkpoint} update 12, ema weights")
        assert row[1].startswith(evaluation)
        assert row[4] == f"{low}–{high}"
        names = ("pass_at_1", "pass_at_2", "strict", "oracle", "sizes_correct")
        assert [row[i] for i in (2, 3, 5, 6, 7)] == [f"{100 * result[name]:.1f} %" for name in names]
        assert row[8:] == [f"{result['grids_solved']} of 5", "4"]


@pytest.mark.slow
def test_a_bar_lies_where_its_interval_does(house):
    house()
    section = part(read(), "scores")
    (scale,) = re.findall(r"on 0 to ([\d.]+) %", section.text)
    for bar, result in zip(section.find("span", **{"class": "bar"}), scores(), strict=True):
        (interval,), (point,) = bar.find("i"), bar.find("b")
        left, width = (float(x) for x in re.findall(r"[\d.]+(?=%)", interval.attributes["style"]))
        low, high = (100 * end for end in result["ci95"])
        assert left / 100 * float(scale) == pytest.approx(low, abs=0.01)
        assert (left + width) / 100 * float(scale) == pytest.approx(high, abs=0.02)
        assert point.attributes["style"] == f"left:{100 * 100 * result['pass_at_2'] / float(scale):.2f}%"


def scores():
    return [json.loads(paths.score(c, e).read_text()) for c in ("best", "final") for e in ("attempts", "votes")]


@pytest.mark.slow
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("leaks", [0, 2])
def test_marks_stand_exactly_where_they_hold(house, capsys, selected, leaks):
    house(leaks=leaks, selected=selected)
    page = read()
    rows = [row for row in part(page, "scores").find("tr") if row.find("td")]
    for row in rows:
        best = row.find("td")[0].text.startswith("best")
        caveats = [mark.text for mark in row.find("span", **{"class": "mark"})]
        expected = ["selected on the reported set"] * (selected and best)
        assert caveats == expected + ["trained on evaluated pairs (2)"] * (leaks > 0)
    assert ("selected on the reported set" in part(page, "candidates").text) == selected
    assert ("trained on evaluated pairs" in part(page, "leaks").text) == (leaks > 0)
    for name in ("solved", "missed", "votes"):
        assert ("trained on evaluated pairs" in part(page, name).text) == (leaks > 0)
        assert ("selected on the reported set" in part(page, name).text) == selected  # best-votes is drawn.
    capsys.readouterr()
    score_table.main()
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert printed.count("selected on the reported set") == 2 * selected
    assert printed.count("trained on evaluated pairs (2)") == 4 * (leaks > 0)


@pytest.mark.slow
def test_the_terminal_prints_the_same_rows_and_what_to_open(house, capsys):
    house()
    capsys.readouterr()
    score_table.main()
    printed = capsys.readouterr().out
    for result in scores():
        name = f"{result['checkpoint']}-{result['source']['evaluation_name']}"
        (line,) = re.findall(rf"^{name} .*$", printed, re.MULTILINE)
        numbers = [f"{100 * result[name]:.1f}" for name in ("pass_at_1", "pass_at_2", "strict", "oracle")]
        assert set(numbers) <= set(line.split())
        assert f"{result['grids_solved']} of 5" in line
    assert printed.rstrip().endswith("open next: data/reports/report.html; make ui")


def test_solved_and_missed_grids_are_drawn_as_they_are(house):
    house()
    page = read()
    cards = {name: part(page, name).find("article") for name in ("solved", "missed")}
    heads = {name: [card.find("h3")[0].text for card in drawn] for name, drawn in cards.items()}
    assert heads == {
        "solved": ["aaaa0000 test 0 3 of 3 views right", "bbbb0000 test 0 1 of 3 views right"],
        "missed": [
            "aaaa0000 test 1 0 of 3 views right",
            "cccc0000 test 0 0 of 3 views right",
            "dddd0000 test 0 0 of 0 views right",
        ],
    }
    for drawn, (task, test) in zip(cards["solved"], (("aaaa0000", 0), ("bbbb0000", 0)), strict=True):
        pairs = [[shown(image) for image in pair.find("img")] for pair in drawn.find("span", **{"class": "pair"})]
        for pair, expected in zip(pairs, TASKS[task].train, strict=True):
            assert np.array_equal(pair[0], expected.input)
            assert np.array_equal(pair[1], expected.output)
        figures = captions(drawn)
        assert np.array_equal(figures["test input"][1], TASKS[task].test[test].input)
        assert np.array_equal(figures["answer"][1], ANSWERS[task][test])
    both, either = (captions(card) for card in cards["solved"])
    assert both["both attempts right"][0] == "right"
    assert either["attempt 1 1 of 5 wrong"][0] == "wrong"
    assert np.array_equal(either["attempt 1 1 of 5 wrong"][1], other(ANSWERS["bbbb0000"][0]))
    assert either["attempt 2 right"][0] == "right"
    assert np.array_equal(either["attempt 2 right"][1], ANSWERS["bbbb0000"][0])
    size, _, missing = (captions(card) for card in cards["missed"])
    assert np.array_equal(size["both attempts 6 × 6 for 2 × 2"][1], WRONG["aaaa0000"])
    assert "no answer was given" in missing, "and not the 1 x 1 black grid of the submission, which would be right"
    assert len(missing) == 3


@pytest.mark.slow
def test_no_more_tasks_are_drawn_than_asked_for(house):
    house(tasks_drawn=1)
    page = read()
    assert [len(part(page, name).find("article")) for name in ("solved", "missed")] == [2, 3], "the page has all"
    with Image.open(paths.REPORTS / "missed.png") as one:
        height = one.height
    house(tasks_drawn=6)
    report.main()
    with Image.open(paths.REPORTS / "missed.png") as all_of_them:
        assert all_of_them.height > 2 * height


def test_denoisings_are_drawn_step_by_step(house):
    house()
    right, wrong = part(read(), "denoising").find("article")
    frame, _ = predictions.read(paths.predictions("best", "attempts"))
    for card, end, caption in ((right, "right", "aaaa0000 test 0"), (wrong, "wrong", "cccc0000 test 0")):
        assert card.find("h3")[0].text == f"{caption} best-attempts, attempt 1, ends {end}"
        task, _, test = caption.split()
        row = frame[(frame["task"] == task) & (frame["test"] == int(test)) & (frame["attempt"] == 0)].iloc[0]
        figures = captions(card)
        assert list(figures) == ["start", *(f"step {k}" for k in range(1, STEPS + 1)), "answer"]
        for drawn, cells in zip(list(figures.values())[:-1], row["frames"], strict=True):
            assert drawn[1].astype(np.uint8).tobytes() == cells
        assert figures[f"step {STEPS}"][0] == end
        assert np.array_equal(figures["answer"][1], ANSWERS[task][int(test)])


def test_curves_of_the_steps_are_means_by_how_they_end(house):
    now = house()
    frame, _ = predictions.read(paths.predictions("best", "attempts"))
    solutions = tables.read_solutions("evaluation")
    drawn = panels.step_panels(gallery.denoising_examples(score_table.rows(now)[:1], solutions))
    ends = {"right": [], "wrong": []}
    for row in frame.itertuples():
        ends["right" if np.array_equal(row.grid, ANSWERS[row.task][row.test]) else "wrong"].append(row)
    assert len(ends["right"]) == 1
    for panel, column in zip(drawn, ("change", "confidences", "entropy"), strict=True):
        assert list(panel.lines) == ["ends right (1)", "ends wrong (7)"]
        for (x, y), rows in zip(panel.lines.values(), ends.values(), strict=True):
            assert list(x) == list(range(1, STEPS + 1))
            expected = [sum(float(getattr(row, column)[k]) for row in rows) / len(rows) for k in range(STEPS)]
            assert y == pytest.approx(expected, rel=1e-6)


def test_the_votes_are_shown_by_views_and_by_grid(house):
    house()
    result = json.loads(paths.score("best", "votes").read_text())
    curve, grids = panels.vote_panels(result)
    assert list(curve.lines["pass@2"][0])[-1] == VIEWS
    assert curve.lines["pass@2"][1][-1] == pytest.approx(result["pass_at_2"], abs=1e-6)
    assert grids.lines[""][1] == [3, 1, 0, 0, 0]
    assert "Of best-votes" in part(read(), "votes").text


def test_candidates_and_leaks_are_told(house):
    house()
    page = read()
    rows = [[cell.text for cell in row.find("td")] for row in part(page, "candidates").find("tr") if row.find("td")]
    assert rows[0] == ["6", "best halfway", "20.0 %", "21.0 %", "10.0–40.0", "22.0 %", "23.0 %", "2 of 9"]
    assert rows[1][:2] == ["12", "late final"]
    assert [number.text for number in part(page, "leaks").find("dt")] == ["0", "41", "31", "1"]


@pytest.mark.slow
def test_a_page_on_which_nothing_is_solved(house):
    wrong = {("aaaa0000", 1): [WRONG["aaaa0000"]] * 2}
    house(proposed={"votes": wrong, "attempts": wrong})
    page = read()
    assert "No test grid, as answered by best-attempts" in part(page, "solved").text
    assert len(part(page, "missed").find("article")) == 5
    assert [card.find("h3")[0].text[-10:] for card in part(page, "denoising").find("article")] == ["ends wrong"]


@pytest.mark.slow
def test_a_page_without_any_prediction(house):
    house(proposed={"votes": {}, "attempts": {}})
    page = read()
    assert len(part(page, "missed").find("article")) == 5
    assert "No predictions have frames" in part(page, "denoising").text


def test_the_same_files_twice(house):
    house()
    first = {path.name: path.read_bytes() for path in paths.REPORTS.iterdir()}
    scores_in_short = json.loads(paths.METRICS.read_text())
    assert scores_in_short == {
        f"{s['checkpoint']}-{s['source']['evaluation_name']}": f"{100 * s['pass_at_2']:5.1f} "
        f"[{100 * s['ci95'][0]:.1f}–{100 * s['ci95'][1]:.1f}]"
        for s in scores()
    }
    assert set(first) == {
        "report.html",
        "votes.json",
        *(f"{n}.png" for n in ("training", "noise", "votes", "steps", "solved", "missed", "denoising")),
    }
    report.main()
    assert {path.name: path.read_bytes() for path in paths.REPORTS.iterdir()} == first


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda: paths.score("final", "votes").unlink(), r"final-votes.json cannot be read.*dvc repro"),
        (lambda: paths.score("final", "votes").write_text("{}"), r"final-votes.json cannot be used: it has no digest"),
        (lambda: sealed.write(paths.score("final", "votes"), {}), r"final-votes.json is no score"),
        (
            lambda: edit(paths.score("final", "votes"), "source", "seed", 5),
            r"belongs to v3/tiny/aa1-6x6 seed 5, not to",
        ),
        (lambda: paths.HISTORY.unlink(), r"history.json cannot be read"),
        (lambda: paths.submission("best", "votes").unlink(), r"submission.json cannot be read"),
        (
            lambda: edit(paths.submission("best", "votes"), "aaaa0000", [{"attempt_1": [[1]], "attempt_2": [[2]]}] * 2),
            r"task aaaa0000, test 0: .* disagree about whether it is solved",
        ),
        (lambda: edit(paths.score("best", "votes"), "tasks", "ffff0000", []), r"scores task ffff0000, which"),
    ],
)
def test_what_does_not_belong_together_is_refused(house, damage, says):
    house()
    shutil.rmtree(paths.REPORTS)
    damage()
    with pytest.raises(SystemExit, match=says):
        report.main()
    assert not paths.PAGE.exists()


def edit(path, *keys):
    """Set contents[key]...[key] = value in a JSON file."""
    contents = json.loads(path.read_text())
    *parents, last, value = keys
    target = contents
    for key in parents:
        target = target[key]
    target[last] = value
    sealed.write(path, contents) if path.parent == paths.SCORES else path.write_text(json.dumps(contents))
