"""Stage `report`: one page that opens offline, and its pictures as PNG files beside it.

It runs after scoring and may therefore draw the solutions; it computes no score.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from model.puzzles.grids import Grid
from model.scoring.wording import SELECTED_BY_LOSS, SELECTED_ON, TRAINED_ON, headline, interval, percent
from model.storage.atomic import write_bytes, write_json
from tasks.common import documents, paths
from tasks.common.documents import DocumentError
from tasks.common.params import flatten, resolved
from tasks.common.stage import StageError, stage
from tasks.files.tables import read_solutions
from tasks.reporting import drawing
from tasks.reporting.behaviour import HEADS, cells
from tasks.reporting.drawing import Panel, Strip
from tasks.reporting.gallery import (
    Card,
    Denoising,
    Puzzle,
    cards,
    denoising_examples,
    is_solved,
    read_puzzles,
)
from tasks.reporting.panels import noise_panels, step_panels, training_panels, vote_panels
from tasks.reporting.score_table import read_score, rows
from tasks.reporting.summaries import metrics, vote_points

TEMPLATE = Path(__file__).parent / "reporting" / "report.html.j2"
HELD_OUT_TEXT = {
    "held-out-training": "test pairs of training tasks, which are not trained on",
    "evaluation-solutions": "test pairs of evaluation tasks",
}
"""What `prepare.validation` holds out, in words."""


@stage("report")
def main() -> None:
    """Write data/reports/report.html and the PNG files."""
    experiment = resolved()
    scores = rows(experiment)
    history, selection, leaks = (read_json(path) for path in (paths.HISTORY, paths.SELECTION, paths.LEAKS))
    # Training tasks are scored in the table; what is drawn are evaluation tasks where there are any.
    drawn = [row for row in scores if row.subset == "evaluation"] or scores
    subset = drawn[0].subset
    solutions, puzzles = read_solutions(subset), read_puzzles(subset)
    shown = max(drawn, key=lambda row: row.grids_solved)
    voted = max((row for row in drawn if row.votes), key=lambda row: row.grids_solved, default=None)
    answered = cards(read_score(experiment, shown.checkpoint, shown.evaluation), puzzles, solutions)
    solved = [card for card in answered if is_solved(card)]
    missed = [card for card in answered if not is_solved(card)]
    limit_drawn = experiment.report.tasks_drawn
    denoising = denoising_examples(
        sorted(drawn, key=lambda row: (row.checkpoint != shown.checkpoint, row.votes > 0)), solutions
    )
    panels = {
        "training": training_panels(history),
        "noise": noise_panels(history),
        "votes": vote_panels(read_score(experiment, voted.checkpoint, voted.evaluation)) if voted else [],
        "steps": step_panels(denoising),
    }

    paths.REPORTS.mkdir(parents=True, exist_ok=True)
    for name, columns in (("training", 3), ("noise", 2), ("votes", 2), ("steps", 3)):
        # An experiment without votes has an empty picture, so that the stage's outputs are always the same.
        write_bytes(
            paths.REPORTS / f"{name}.png", drawing.figure_png(drawing.curves(panels[name], columns, margin=0.15))
        )
    for name, strips in (
        ("solved", [card_strip(card) for card in solved[:limit_drawn]]),
        ("missed", [card_strip(card) for card in missed[:limit_drawn]]),
        ("denoising", [denoising_strip(example) for example in denoising.examples]),
    ):
        by = shown.name if name != "denoising" else "step by step"
        title = f"{experiment.title}, seed {experiment.seed}: {name if strips else 'none ' + name}, {by}"
        write_bytes(paths.REPORTS / f"{name}.png", drawing.sheet(title, strips))
    page = render(
        experiment=experiment,
        summary=summary(puzzles, subset, history, experiment.train.optimizer_steps),
        scores=scores,
        selection=selection,
        leaks=leaks,
        held_out=HELD_OUT_TEXT[selection["selected_on"]] if any("validation_loss" in row for row in history) else "",
        shown=shown,
        voted=voted,
        headline=next(row for row in scores if row.name == headline([row.name for row in scores])),
        parts=[("Solved", solved), ("Missed", missed)],
        differences=read_json(paths.DIFFERENCES),
        parameters=flatten(experiment.model_dump(mode="json")),
        denoising=denoising,
        svgs={name: svgs(drawn, width=5.3 if len(drawn) == 2 else 3.5) for name, drawn in panels.items()},
    )
    write_bytes(paths.PAGE, page.encode())
    voting = {row.name: read_score(experiment, row.checkpoint, row.evaluation) for row in scores if row.votes}
    write_json(paths.VOTE_POINTS, vote_points(voting))
    write_json(paths.METRICS, metrics(scores))
    print(f"{paths.PAGE}: {len(page) // 1000} kB, {len(solved)} of {len(answered)} grids solved by {shown.name}")


def read_json(path: Path) -> Any:
    """A file of an earlier stage. Raises StageError."""
    try:
        return documents.read_json(path)
    except DocumentError as error:
        raise StageError(f"{error}; run `dvc repro`") from error


def render(**context: Any) -> str:
    """The page, rendered from the template."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        picture=picture,
        cell=drawing.cell_size,
        percent=percent,
        interval=interval,
        limit=limit,
        colours=["#" + bytes(colour).hex() for colour in drawing.PALETTE.tolist()],
        selected_on=SELECTED_ON,
        selected_by_loss=SELECTED_BY_LOSS,
        trained_on=TRAINED_ON,
        behaviour_heads=HEADS,
        behaviour_cells=cells,
    )
    return environment.get_template(TEMPLATE.name).render(**context)


def picture(grid: Grid, cell: int, description: str) -> Markup:
    """A grid as an image inside the page, `cell` pixels a cell; `description` is its alternative text."""
    source = base64.b64encode(drawing.cells_png(grid)).decode()
    height, width = grid.shape
    return Markup(
        '<span class="cells" style="--cell:{cell}px"><img src="data:image/png;base64,{source}" width="{}" height="{}" '
        'alt="{}"></span>'
    ).format(cell * width, cell * height, f"{description}, {height} × {width}", cell=cell, source=source)


def svgs(panels: Iterable[Panel], width: float) -> list[Markup]:
    """Each panel as a figure of its own, so that the page can wrap them."""
    return [Markup(drawing.figure_svg(drawing.curves([panel], 1, width))) for panel in panels]


def limit(shares: Iterable[float]) -> float:
    """Upper end of the scale for these shares (0..1), a round number."""
    most = max(shares)
    return next(end for end in (0.05, 0.1, 0.25, 0.5, 1.0) if most <= end)


def summary(puzzles: Mapping[str, Puzzle], subset: str, history: Sequence[Mapping[str, float]], planned: int) -> str:
    """The experiment in one sentence; says if the training stopped before `planned` updates."""
    done = int(history[-1]["step"])
    updates = f"{done:,} updates" if done == planned else f"{done:,} of {planned:,} updates (stopped early)"
    grids = sum(len(puzzle.tests) for puzzle in puzzles.values())
    return (
        f"A discrete-diffusion solver of ARC tasks, trained for {updates} and asked {grids} test grids of "
        f"{len(puzzles)} {subset} tasks."
    )


def card_strip(card: Card) -> Strip:
    """A test grid as a row of a sheet."""
    grids = [grid for pair in card.demonstrations for grid in pair]
    labels = [f"{side} {i + 1}" for i in range(len(card.demonstrations)) for side in ("input", "output")]
    context = [*zip(labels, grids, strict=True), ("test input", card.input), ("answer", card.answer)]
    attempts = [(f"{attempt.name}\n{attempt.verdict}", attempt.grid) for attempt in card.attempts]
    return Strip(f"{card.task}, test {card.test}", [*context, *attempts])


def denoising_strip(example: Denoising) -> Strip:
    """A denoising as a row of a sheet."""
    frames = [(f"step {step}" if step else "start", grid) for step, grid in example.frames]
    heading = f"{example.task}, test {example.test}: ends {'right' if example.right else 'wrong'}"
    return Strip(heading, [*frames, ("answer", example.answer)])


if __name__ == "__main__":
    main()
