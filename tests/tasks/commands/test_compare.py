"""Comparisons against sums by hand: differences, tasks won and lost, seeds pooled, and what is refused."""

import csv
import re
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from model.scoring.statistics import bootstrap_interval, paired_difference
from tasks.commands import compare as command
from tasks.common.stage import StageError
from tasks.comparison.comparison import NO_DIFFERENCE, compare
from tests.support.browser import browser
from tests.support.random_scores import TASKS, folder, four, made_score, values_of


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return four(tmp_path)


def test_two_experiments_by_hand(folders):
    found = compare(folders[:2], resamples=2000)
    a, b = (values_of(score) for score in (made_score(1), made_score(2, 0.25)))
    assert [row.pass_at_2 for row in found.rows] == pytest.approx([a.mean(), b.mean()])
    assert (found.rows[0].low, found.rows[0].high) == bootstrap_interval(a, 2000)
    assert (found.rows[0].n_tasks, found.rows[0].n_grids) == (120, 150)
    assert found.rows[1].strict == pytest.approx((b == 1).mean())
    (pair,) = found.pairs
    by_hand = paired_difference(a, b, 2000)
    assert (pair.difference, pair.low, pair.high, pair.p, 0.0) == by_hand
    assert pair.p_holm == pair.p
    assert pair.won == tuple(t for t, x, y in zip(TASKS, a, b, strict=True) if y > x)
    assert pair.lost == tuple(t for t, x, y in zip(TASKS, a, b, strict=True) if y < x)
    assert pair.factors == (("train.optimizer.learning_rate", "0.002", "0.001"),)
    assert (pair.shown, pair.verdict) == (True, "B higher")
    assert [row.label for row in found.rows] == ["v3/tiny/aa1", "v3/tiny/aa1 (learning_rate=0.001)"]
    assert any("one seed" in note for note in found.notes)


def test_the_other_way_round_is_the_same_with_other_signs(folders):
    ahead, back = (compare(names, resamples=4000).pairs[0] for names in (folders[:2], folders[1::-1]))
    assert back.difference == pytest.approx(-ahead.difference)
    assert (back.low, back.high) == pytest.approx((-ahead.high, -ahead.low), abs=0.01)
    assert (back.won, back.lost, back.verdict) == (ahead.lost, ahead.won, "B lower")


def test_what_lies_within_the_interval_is_not_ranked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [folder(tmp_path / f"e{i}", made_score(20 + i), train={"batch": 8 + i}) for i in range(7)]
    found = compare(names, resamples=2000)
    assert [row.label for row in found.rows] == ["v3/tiny/aa1", *(f"v3/tiny/aa1 (batch={8 + i})" for i in range(1, 7))]
    assert len(found.pairs) == 21
    for pair in found.pairs:
        assert pair.shown == ((pair.low > 0 or pair.high < 0) and pair.p <= 0.05)
        assert (pair.verdict == NO_DIFFERENCE) == (not pair.shown)
        assert pair.p <= pair.p_holm <= 1
    # One recipe seven times: chance alone may show single pairs, but none after correction.
    assert all("not after correction" in pair.verdict for pair in found.pairs if pair.shown)


def test_seeds_are_pooled_over_the_same_tasks(folders):
    found = compare(folders, resamples=2000)
    assert [row.seeds for row in found.rows] == [(0, 1), (0, 1)]
    a = np.stack([values_of(made_score(1)), values_of(made_score(3))])
    b = np.stack([values_of(made_score(2, 0.25)), values_of(made_score(4, 0.25))])
    assert found.rows[0].n_tasks == 120
    assert found.rows[0].pass_at_2 == pytest.approx(a.mean())
    assert found.rows[1].seed_scores == pytest.approx(tuple(b.mean(1)))
    assert tuple(found.pairs[0])[2:6] == tuple(paired_difference(a, b, 2000))[:4]
    assert found.notes == []
    apart = compare(folders, apart=True, resamples=200)
    assert [row.seeds for row in apart.rows] == [(0,), (0,), (1,), (1,)]
    assert len({row.label for row in apart.rows}) == 4
    assert len(apart.pairs) == 6


def test_the_same_seed_again_is_no_other_seed(folders, tmp_path):
    """Two worktrees with the same parameters and seed, but other code: they stand side by side."""
    other = folder(tmp_path / "changed", made_score(5))
    found = compare([folders[0], other], resamples=200)
    assert [row.seeds for row in found.rows] == [(0,), (0,)]
    assert [row.label for row in found.rows] == [f"v3/tiny/aa1 ({folders[0]})", f"v3/tiny/aa1 ({other})"]
    assert found.pairs[0].factors == ()
    assert len(compare([folders[0], folders[0]], resamples=200).rows) == 1


def test_other_task_sets_are_refused_unless_the_shared_ones_are_asked_for(folders, tmp_path):
    fewer = folder(tmp_path / "fewer", made_score(6, tasks=TASKS[:50]), train={"batch": 4})
    with pytest.raises(StageError, match=r"over different tasks .*: 120, .*: 50; 50 shared.*--common"):
        compare([folders[0], folders[1], fewer])
    found = compare([folders[0], folders[1], fewer], common=True, resamples=200)
    assert {row.n_tasks for row in found.rows} == {50}
    assert found.rows[0].pass_at_2 == pytest.approx(values_of(made_score(1), TASKS[:50]).mean())
    assert any("over the 50 shared tasks only" in note for note in found.notes)
    none = folder(tmp_path / "none", made_score(7, tasks=TASKS[60:]), train={"batch": 5})
    with pytest.raises(StageError, match="share no task"):
        compare([fewer, none], common=True)


def test_a_task_with_another_number_of_test_grids_is_another_task(folders, tmp_path):
    score = made_score(8)
    score["tasks"][TASKS[1]] *= 2
    other = folder(tmp_path / "other", score, train={"batch": 4})
    with pytest.raises(StageError, match="119 shared"):
        compare([folders[0], other])


def test_marks_stand_beside_the_numbers(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")  # The names are paths, which may be long.
    marked = folder(tmp_path / "marked", made_score(9, selected=True, leaks=376), train={"batch": 4})
    assert compare([folders[0], marked], resamples=200).rows[1].caveats == (
        "selected on the reported set",
        "trained on evaluated pairs (376)",
    )
    _main([folders[0], marked])
    shown = capsys.readouterr().out
    assert "selected on the reported set" in shown
    assert "trained on evaluated pairs (376)" in shown


def _main(names, **changes):
    values = {"checkpoint": "best", "evaluation": "votes", "common": False, "apart": False, "csv_file": None}
    command.main(**(values | {"names": names, "html": None} | changes))


def test_few_pairs_list_every_task_and_many_only_neighbours_and_some(monkeypatch):
    won = tuple(f"t{i}" for i in range(25))
    monkeypatch.setattr(command, "_scores", lambda *_: "scores")
    monkeypatch.setattr(command, "_pairs", lambda *_: "pairs")

    def drawn(count):
        labels = [f"e{i}" for i in range(count)]
        ends = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
        pairs = [SimpleNamespace(a=a, b=b, won=won, lost=(), factors=(("k", "1", "2"),)) for a, b in ends]
        rows = [SimpleNamespace(label=label) for label in labels]
        return command.draw(SimpleNamespace(rows=rows, pairs=pairs, notes=["[a note]"]))

    few, many = drawn(3), drawn(4)
    all_tasks = f"won 25: {' '.join(won)}"
    assert few.count(all_tasks) == 3
    assert [part for part in few if part.startswith("\n")] == [f"\n[bold]{a} → {b}[/]" for a, b in ("AB", "AC", "BC")]
    assert few[-1] == "[yellow]\\[a note][/]"
    assert few.count("lost none") == 3
    assert few.count("differ in: k 1 → 2") == 3
    assert many.count(f"won 25: {' '.join(won[:20])} ...") == 3
    assert many[-2] == "\nThe other 3 pairs' tasks and factors, and all tasks: --csv FILE."
    assert drawn(1) == ["scores", "[yellow]\\[a note][/]"]


def test_without_options_the_votes_of_the_best_checkpoint_are_compared_with_seeds_pooled(monkeypatch):
    asked = []
    app = typer.Typer()
    app.command()(command.main)
    monkeypatch.setattr(command, "compare", lambda *given: asked.append(given))
    monkeypatch.setattr(command, "draw", lambda _: [])
    assert CliRunner().invoke(app, ["a", "b"]).exit_code == 0
    options = ["--checkpoint", "final", "--evaluation", "attempts", "--common", "--seeds-apart"]
    assert CliRunner().invoke(app, ["a", *options]).exit_code == 0
    assert asked == [(["a", "b"], "best", "votes", False, False), (["a"], "final", "attempts", True, True)]


def test_csv_and_page_hold_the_same_as_the_terminal(folders, tmp_path, capsys):
    _main(folders, csv_file=tmp_path / "out.csv", html=tmp_path / "out.html")
    shown, found = capsys.readouterr().out, compare(folders)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "out-pairs.csv").open() as file:
        (pair,) = csv.DictReader(file)
    assert [float(row["pass_at_2"]) for row in rows] == [row.pass_at_2 for row in found.rows]
    assert rows[0]["seeds"] == "0; 1"
    assert float(pair["p"]) == found.pairs[0].p
    assert pair["won"].split("; ") == list(found.pairs[0].won)
    assert pair["factors"] == "train.optimizer.learning_rate 0.002 0.001"
    page = (tmp_path / "out.html").read_text()
    assert set(re.findall(r"https?://[^\"]*", page)) == {
        f"https://arcprize.org/play?task={task}" for task in found.pairs[0].won + found.pairs[0].lost
    }
    for text in (found.pairs[0].verdict, found.pairs[0].won[0], f"{100 * found.pairs[0].difference:+.1f}"):
        assert text in shown
        assert text in page
    with pytest.raises(SystemExit, match="nowhere does not exist"):
        _main(folders, csv_file=tmp_path / "nowhere" / "out.csv")


def test_the_bars_of_the_page_lie_where_their_intervals_do(folders, tmp_path, capsys):
    _main(folders, html=tmp_path / "out.html")
    page, found = (tmp_path / "out.html").read_text(), compare(folders)
    plot = r'left:([\d.]+)%;width:([\d.]+)%"></i><b style="left:([\d.]+)%'
    drawn = [tuple(map(float, match)) for match in re.findall(plot, page)]
    (end,) = map(float, re.findall(r"on 0 to ([\d.]+) %", page))
    (reach,) = map(float, re.findall(r"to \+([\d.]+)</th>", page))
    expected = [(r.low, r.high - r.low, r.pass_at_2) for r in found.rows]
    (pair,) = found.pairs
    low, high, middle = (50 + 50 * 100 * value / reach for value in (pair.low, pair.high, pair.difference))
    scaled = [tuple(100 * 100 * value / end for value in row) for row in expected] + [(low, high - low, middle)]
    assert len(drawn) == len(scaled) == 3
    for here, there in zip(drawn, scaled, strict=True):
        assert here == pytest.approx(there, abs=0.02)


@pytest.mark.slow
def test_the_page_fits_a_phone_and_a_screen_in_light_and_dark(folders, tmp_path, capsys):
    _main(folders, html=tmp_path / "out.html")
    with browser() as page:
        for width, scheme in ((400, "light"), (400, "dark"), (1600, "light"), (1600, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.goto((tmp_path / "out.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(19, 19, 21)" if scheme == "dark" else "rgb(251, 251, 250)")


def test_seven_experiments_fit_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    _main([folder(tmp_path / f"e{i}", made_score(20 + i, 0.05 * i), train={"batch": 8 + i}) for i in range(7)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 110
    assert len(shown.splitlines()) < 120
    assert all(f"{a} → {b}" in shown for a, b in ("AB", "AG", "FG"))
    assert "train.batch 8 → 9" in " ".join(shown.split())
    assert "The other 15 pairs' tasks and factors" in shown
    verdicts = re.findall(r"^(\w) → (\w) .* (\w) (higher|lower)", shown, flags=re.M)
    assert {second for _, second, _, _ in verdicts} >= {"E", "F", "G"}
    assert all(letter == second for _, second, letter, _ in verdicts)


@pytest.mark.slow
def test_on_a_wide_screen_every_column_of_the_page_is_visible(tmp_path, monkeypatch, capsys):
    folders = [folder(tmp_path / f"e{i}", made_score(20 + i, 0.1 * i), train={"batch": 8 + i}) for i in range(5)]
    _main(folders, html=tmp_path / "out.html")
    with browser() as page:
        page.set_viewport_size({"width": 1600, "height": 900})
        page.goto((tmp_path / "out.html").as_uri())
        hidden = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert page.evaluate(hidden) == 0
        verdicts = page.locator("#differences tbody tr").all_inner_texts()
    (verdict,) = [text for text in verdicts if text.startswith("B → E")]
    assert "E higher" in verdict


def test_a_narrow_terminal_still_shows_every_number(folders, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    _main(folders)
    shown = capsys.readouterr().out
    assert "…" not in shown
    for row in compare(folders).rows:
        for share in (row.pass_at_1, row.pass_at_2, row.low, row.high, row.strict, row.oracle, *row.seed_scores):
            assert f"{100 * share:.1f}" in shown
