"""`arc compare`: compares experiments in one table, in the terminal, as CSV and as a page.

`python -m tasks.commands.compare A B [...]` takes score files, folders with data/scores (a worktree, a clone), and
names of experiments in MLflow.
"""

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model.config.evaluation import CheckpointName
from model.scoring.wording import interval, p_value, percent
from model.storage.atomic import atomic_path, write_text
from tasks.common.stage import StageError, stage
from tasks.comparison import compare_page
from tasks.comparison.comparison import Comparison, Pair, Row, compare

FEW = 3
"""Largest number of experiments for which every pair is printed with all its tasks; else only neighbours are."""
TASKS = 20
"""Tasks printed per pair of more than FEW experiments."""


def write_csv(path: Path, rows: Sequence[NamedTuple]) -> None:
    """Write one line per row; lists are joined by semicolons."""

    def text(value: Any) -> Any:
        if isinstance(value, tuple):
            return "; ".join(" ".join(part) if isinstance(part, tuple) else str(part) for part in value)
        return value

    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0]._fields)
        writer.writerows([text(value) for value in row] for row in rows)


@stage("compare")
def main(
    names: Annotated[
        list[str], typer.Argument(help="Score files, folders with data/scores, or names such as v3/smol/aa1")
    ],
    checkpoint: Annotated[CheckpointName, typer.Option(help="Checkpoint to compare")] = "best",
    evaluation: Annotated[str, typer.Option(help="Evaluation to compare")] = "votes",
    common: Annotated[
        bool, typer.Option("--common", help="Compare over the shared tasks if the task sets differ")
    ] = False,
    apart: Annotated[bool, typer.Option("--seeds-apart", help="Do not pool the seeds of an experiment")] = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write the scores to FILE.csv and the pairs to FILE-pairs.csv")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots that opens offline")] = None,
) -> None:
    """Compare experiments: scores with intervals, paired differences, tasks won and lost, and differing parameters."""
    for path in (csv_file, html):
        if path and not path.absolute().parent.is_dir():
            raise StageError(f"{path} cannot be written: the folder {path.absolute().parent} does not exist")
    comparison = compare(names, checkpoint, evaluation, common, apart)
    # A pipe or a file has no width of its own.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
    for part in draw(comparison):
        console.print(part, highlight=False)
    if html:
        write_text(html, compare_page.page(comparison, letters(comparison.rows)))
    if csv_file:
        write_csv(csv_file, comparison.rows)
        if comparison.pairs:
            write_csv(csv_file.with_name(f"{csv_file.stem}-pairs{csv_file.suffix}"), comparison.pairs)


def draw(comparison: Comparison) -> list[Any]:
    """The tables and texts, for rich."""
    names = letters(comparison.rows)
    parts: list[Any] = [_scores(comparison.rows, names)]
    if comparison.pairs:
        parts.append(_pairs(comparison.pairs, names))
    order = list(names)
    most = None if len(order) <= FEW else TASKS
    detailed = [p for p in comparison.pairs if len(order) <= FEW or order.index(p.b) - order.index(p.a) == 1]
    for pair in detailed:
        parts.append(f"\n[bold]{names[pair.a]} → {names[pair.b]}[/]")
        parts.append(_list("won", pair.won, most))
        parts.append(_list("lost", pair.lost, most))
        parts.append(_factors(pair))
    if len(detailed) < len(comparison.pairs):
        parts.append(
            f"\nThe other {len(comparison.pairs) - len(detailed)} pairs' tasks and factors, and all tasks: --csv FILE."
        )
    return [*parts, *(f"[yellow]{escape(note)}[/]" for note in comparison.notes)]


def letters(rows: Sequence[Row]) -> dict[str, str]:
    """A ... Z, then A1 ..., by label."""
    return {row.label: chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "") for i, row in enumerate(rows)}


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )


def _scores(rows: Sequence[Row], names: dict[str, str]) -> Table:
    first = rows[0]
    table = _table(f"{first.n_tasks} tasks, {first.n_grids} test grids; shares in %, 95 % intervals over tasks")
    table.add_column("\nexperiment", min_width=22, overflow="fold")
    for name in ("\nseeds", "pass\n@1", "pass\n@2", "95 %\ninterval", "\nstrict", "any\nview", "sizes\nright", "\nmin"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        caveats = "".join(f"\n[bold yellow]{caveat}[/]" for caveat in row.caveats)
        missing = f"\n[bold yellow]{row.missing} grids without an answer[/]" if row.missing else ""
        shares = [percent(share) for share in (row.strict, row.oracle, row.sizes_correct)]
        spread = "".join(f"\n[dim]{percent(score)}[/]" for score in row.seed_scores) if len(row.seeds) > 1 else ""
        table.add_row(
            f"{names[row.label]}  {escape(row.label)}\n   [dim]{row.evaluation}[/]{caveats}{missing}",
            "\n".join(["", *map(str, row.seeds)] if len(row.seeds) > 1 else map(str, row.seeds)),
            percent(row.pass_at_1),
            f"[bold]{percent(row.pass_at_2)}[/]{spread}",
            interval((row.low, row.high)),
            *shares,
            "?" if row.minutes is None else f"{row.minutes:.1f}" + (f"\n[dim]{row.device}[/]" if row.device else ""),
        )
    return table


def _pairs(pairs: Sequence[Pair], names: dict[str, str]) -> Table:
    several = len(pairs) > 1
    table = _table("\nSecond minus first in points of pass@2, paired over tasks; p by a sign-flip test over tasks")
    table.add_column("pair")
    for name in ("points", "95 %", "p", *(["p, Holm"] if several else []), "won", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for pair in pairs:
        verdict = pair.verdict_on(names[pair.b])
        table.add_row(
            f"{names[pair.a]} → {names[pair.b]}",
            f"{100 * pair.difference:+.1f}",
            f"{100 * pair.low:+.1f} to {100 * pair.high:+.1f}",
            p_value(pair.p),
            *([p_value(pair.p_holm)] if several else []),
            str(len(pair.won)),
            str(len(pair.lost)),
            f"[bold]{verdict}[/]" if pair.p_holm <= 0.05 else verdict,
        )
    return table


def _list(name: str, tasks: Sequence[str], most: int | None) -> str:
    more = " ..." if most and len(tasks) > most else ""
    return f"{name} {len(tasks)}: {' '.join(tasks[:most])}{more}" if tasks else f"{name} none"


def _factors(pair: Pair) -> str:
    if pair.factors is None:
        return "differ in: unknown, since the parameters of one score are missing"
    if not pair.factors:
        return "differ in: no parameter that affects the score"
    return "differ in: " + escape("; ".join(f"{key} {a} → {b}" for key, a, b in pair.factors))


if __name__ == "__main__":
    typer.run(main)
