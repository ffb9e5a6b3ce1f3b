"""`arc compare` in a terminal: every cell of its tables, how many tasks it lists, and its letters."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tasks.commands import compare
from tasks.comparison.comparison import NO_DIFFERENCE, Comparison, Pair, Row


def row(label: str, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "label": label,
        "experiment": label,
        "seeds": (0,),
        "evaluation": "best-votes",
        "n_tasks": 40,
        "n_grids": 50,
        "pass_at_1": 0.1,
        "pass_at_2": 0.2,
        "low": 0.15,
        "high": 0.25,
        "strict": 0.175,
        "oracle": 0.3,
        "sizes_correct": 0.9,
        "missing": 0,
        "seed_scores": (0.2,),
        "minutes": 1.25,
        "device": "GPU",
        "code": "",
        "caveats": (),
    }
    return Row(**values | changes)


def pair(a: str, b: str, **changes: Any) -> Pair:
    values: dict[str, Any] = {
        "a": a,
        "b": b,
        "difference": 0.05,
        "low": -0.01,
        "high": 0.11,
        "p": 0.04,
        "p_holm": 0.05,
        "shown": True,
        "verdict": "B higher",
        "won": ("t1", "t2"),
        "lost": (),
        "factors": (),
    }
    return Pair(**values | changes)


def drawn(*parts: Any) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=400)
    for part in parts:
        console.print(part, highlight=False)
    return [" ".join(line.split()) for line in file.getvalue().splitlines() if line.strip()]


CELLS = "10.0 {} 15.0–25.0 17.5 30.0 90.0 {}"


def test_a_row_shows_its_shares_seeds_cost_and_caveats() -> None:
    two = row(
        "y[z]", seeds=(3, 5), seed_scores=(0.18, 0.22), minutes=None, caveats=("one", "two"), missing=4, device="GPU"
    )
    lines = drawn(compare._scores([row("x"), two, row("w", device="", minutes=0.0)], {"x": "A", "y[z]": "B", "w": "C"}))
    assert lines[0] == "40 tasks, 50 test grids; shares in %, 95 % intervals over tasks"
    at = lines.index("A x 0 " + CELLS.format("20.0", "1.2"))
    assert lines[at + 1 : at + 8] == [
        "best-votes GPU",
        "B y[z] " + CELLS.format("20.0", "?"),
        "best-votes 3 18.0",
        "one 5 22.0",
        "two",
        "4 grids without an answer",
        "C w 0 " + CELLS.format("20.0", "0.0"),
    ]
    assert lines[at + 8 :] == ["best-votes"]


def test_a_pair_shows_points_and_the_corrected_p_only_among_several() -> None:
    names = {"x": "A", "y": "B", "z": "C"}
    one = drawn(compare._pairs([pair("x", "y")], names))
    assert one[-3].split() == ["pair", "points", "95", "%", "p", "won", "lost", "verdict"]
    assert one[-1] == "A → B +5.0 -1.0 to +11.0 0.0400 2 0 B higher"
    other = pair("y", "z", difference=-0.2, verdict=NO_DIFFERENCE, won=(), lost=("t1",), p_holm=0.5)
    several = drawn(compare._pairs([pair("x", "z"), other], names))
    assert several[-4].split() == ["pair", "points", "95", "%", "p", "p,", "Holm", "won", "lost", "verdict"]
    assert several[-2:] == [
        "A → C +5.0 -1.0 to +11.0 0.0400 0.0500 2 0 C higher",
        f"B → C -20.0 -1.0 to +11.0 0.0400 0.5000 0 1 {NO_DIFFERENCE}",
    ]


SCORES = """\
40 tasks, 50 test grids; shares in %, 95 % intervals over tasks
                               pass  pass       95 %           any  sizes
experiment              seeds    @1    @2   interval  strict  view  right  min
──────────────────────────────────────────────────────────────────────────────
A  x                        0  10.0  20.0  15.0–25.0    17.5  30.0   90.0  1.2
   best-votes                                                              GPU
B  y                           10.0  20.0  15.0–25.0    17.5  30.0   90.0  1.2
   best-votes               3        18.0                                  GPU
                            5        22.0"""
PAIRS = """\

Second minus first in points of pass@2, paired over tasks; p by a
sign-flip test over tasks
pair   points           95 %       p  p, Holm  won  lost  verdict
──────────────────────────────────────────────────────────────────
A → B    +5.0  -1.0 to +11.0  0.0400   0.0500    2     0  B higher
B → C    +5.0  -1.0 to +11.0  0.0400   0.0500    2     0  C higher"""


def test_the_tables_fit_a_terminal_of_84_columns() -> None:
    def printed(table: Any) -> str:
        file = io.StringIO()
        Console(file=file, width=84).print(table)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    names = {"x": "A", "y": "B", "z": "C"}
    assert printed(compare._scores([row("x"), row("y", seeds=(3, 5), seed_scores=(0.18, 0.22))], names)) == SCORES
    assert printed(compare._pairs([pair("x", "y"), pair("y", "z")], names)) == PAIRS


@pytest.mark.parametrize(("p", "bold"), [(0.05, True), (0.0501, False)])
def test_what_holds_after_the_correction_is_bold(p: float, bold: bool) -> None:
    file = io.StringIO()
    Console(file=file, width=200, force_terminal=True).print(
        compare._pairs([pair("x", "y", p_holm=p)], {"x": "A", "y": "B"})
    )
    last = file.getvalue().splitlines()[-1]
    assert ("\x1b[1mB higher" in last) == bold


TASKS = tuple(f"t{i:02}" for i in range(21))


@pytest.mark.parametrize(
    ("tasks", "most", "says"),
    [
        ((), 20, "won none"),
        (TASKS[:2], None, "won 2: t00 t01"),
        (TASKS, None, f"won 21: {' '.join(TASKS)}"),
        (TASKS[:20], 20, f"won 20: {' '.join(TASKS[:20])}"),
        (TASKS, 20, f"won 21: {' '.join(TASKS[:20])} ..."),
    ],
)
def test_a_list_of_tasks_may_be_cut(tasks: tuple[str, ...], most: int | None, says: str) -> None:
    assert compare._list("won", tasks, most) == says


def test_factors_are_told() -> None:
    assert compare._factors(pair("x", "y", factors=None)) == (
        "differ in: unknown, since the parameters of one score are missing"
    )
    assert compare._factors(pair("x", "y")) == "differ in: no parameter that affects the score"
    two = (("a.b", "1", "2"), ("c", "[x]", "-"))
    assert compare._factors(pair("x", "y", factors=two)) == "differ in: a.b 1 → 2; c \\[x] → -"


def test_few_experiments_show_all_pairs_and_all_tasks() -> None:
    rows = [row(name) for name in "xyz"]
    pairs = [pair(a, b, won=TASKS, lost=("t1",)) for a, b in ("xy", "xz", "yz")]
    parts = compare.draw(Comparison(rows, pairs, ["a [note]", "another"]))
    texts = [part.strip() for part in parts if isinstance(part, str)]
    details = [f"won 21: {' '.join(TASKS)}", "lost 1: t1", "differ in: no parameter that affects the score"]
    assert texts == [
        *("[bold]A → B[/]", *details, "[bold]A → C[/]", *details, "[bold]B → C[/]", *details),
        *("[yellow]a \\[note][/]", "[yellow]another[/]"),
    ]
    assert len(parts) == len(texts) + 2


def test_many_experiments_show_neighbours_and_twenty_tasks() -> None:
    rows = [row(name) for name in "wxyz"]
    pairs = [pair(a, b, won=TASKS) for a, b in ("wx", "wy", "wz", "xy", "xz", "yz")]
    texts = [part.strip() for part in compare.draw(Comparison(rows, pairs, [])) if isinstance(part, str)]
    assert [text for text in texts if "→" in text] == ["[bold]A → B[/]", "[bold]B → C[/]", "[bold]C → D[/]"]
    assert texts.count(f"won 21: {' '.join(TASKS[:20])} ...") == 3
    assert texts[-1] == "The other 3 pairs' tasks and factors, and all tasks: --csv FILE."
    alone = compare.draw(Comparison(rows[:1], [], []))
    assert len(alone) == 1


def test_letters_go_on_after_z() -> None:
    names = compare.letters([row(str(i)) for i in range(53)])
    assert [names[str(i)] for i in (0, 1, 25, 26, 27, 51, 52)] == ["A", "B", "Z", "A1", "B1", "Z1", "A2"]


def test_the_command_compares_seeds_together_over_all_tasks_and_writes_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []
    one = Comparison([row("x"), row("y")], [pair("x", "y", factors=(("a", "1", "2"), ("b", "3", "4")))], [])
    monkeypatch.setattr(compare, "compare", lambda *given: asked.append(given) or one)
    compare.main(["x", "y"])
    assert asked == [(["x", "y"], "best", "votes", False, False)]
    assert "A → B" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    compare.main(["x"], csv_file=Path("a.csv"))
    header, *lines = Path("a.csv").read_text().splitlines()
    assert header.split(",") == list(Row._fields)
    assert [line.split(",")[0] for line in lines] == ["x", "y"]
    header, line = Path("a-pairs.csv").read_text().splitlines()
    assert header.split(",") == list(Pair._fields)
    assert line.endswith(",t1; t2,,a 1 2; b 3 4")
    alone = Comparison([row("x")], [], [])
    monkeypatch.setattr(compare, "compare", lambda *_: alone)
    compare.main(["x"], csv_file=Path("b.csv"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-pairs.csv", "a.csv", "b.csv"]
    for option in ("csv_file", "html"):
        with pytest.raises(SystemExit) as refused:
            compare.main(["x"], **{option: Path("none/c")})
        says = f"compare: none/c cannot be written: the folder {tmp_path}/none does not exist"
        assert str(refused.value) == says
