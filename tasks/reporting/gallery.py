"""The test grids with their attempts, and the denoising examples, that the report draws."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.puzzles.grids import Grid
from model.scoring.wording import subset
from tasks.common import paths
from tasks.common.documents import DocumentError, read_json
from tasks.common.stage import StageError
from tasks.files import predictions
from tasks.files.tables import read_demonstrations, read_pairs, solutions_path
from tasks.reporting.score_table import Row

Floats = NDArray[np.float64]
Solutions = Mapping[str, Sequence[Grid]]


class Puzzle(NamedTuple):
    """A task without its test outputs."""

    demonstrations: list[tuple[Grid, Grid]]
    tests: list[Grid]


class Attempt(NamedTuple):
    """One of the two answers that were submitted."""

    name: str
    verdict: str
    grid: Grid
    right: bool
    description: str
    """Name and verdict in a sentence's words."""


class Card(NamedTuple):
    """A test grid with its attempts and their verdicts."""

    task: str
    test: int
    note: str
    demonstrations: list[tuple[Grid, Grid]]
    input: Grid
    answer: Grid
    attempts: list[Attempt]
    """Two; one if both are equal; none if there is no answer."""


class Denoising(NamedTuple):
    """The denoising of one answer."""

    task: str
    test: int
    source: Row
    number: int
    """Which attempt, from 0."""
    right: bool
    frames: list[tuple[int, Grid]]
    """Number of steps done, and the grid after them."""
    answer: Grid


class DenoisingExamples(NamedTuple):
    """Denoising examples, and means over all denoisings of one evaluation."""

    examples: list[Denoising]
    """At most one that ends right and one that ends wrong."""
    source: Row | None
    """The score row that `counts` and `means` belong to; None if no predictions have frames."""
    counts: dict[str, int]
    means: dict[str, dict[str, Floats]]
    """Column of the predictions -> 'right' or 'wrong' -> mean per step, (steps,)."""


def read_puzzles(split: str) -> dict[str, Puzzle]:
    """The 'evaluation' or 'training' tasks of data/prepared, by id."""
    demonstrations = read_demonstrations()
    puzzles: dict[str, Puzzle] = {}
    for (name, _), (before, _) in sorted(read_pairs(split).items(), key=itemgetter(0)):
        puzzles.setdefault(name, Puzzle(demonstrations.get(name, []), [])).tests.append(before)
    return puzzles


def cards(score: Mapping[str, Any], puzzles: Mapping[str, Puzzle], solutions: Solutions) -> list[Card]:
    """Every test grid of a score, by task id. Raises StageError where score, submission and data disagree."""
    checkpoint, evaluation = score["checkpoint"], score["source"]["evaluation_name"]
    path = paths.submission(checkpoint, evaluation)
    try:
        submission = read_json(path)
    except DocumentError as error:
        raise StageError(f"{error}; run the stage score again") from error
    unit = "attempts" if score["source"]["evaluation"]["answers"]["by"] == "attempts" else "views"
    drawn = []
    for name, results in sorted(score["tasks"].items()):
        if name not in puzzles or name not in solutions or name not in submission:
            raise StageError(
                f"{paths.score(checkpoint, evaluation)} scores task {name}, which {paths.PAIRS}, "
                f"{solutions_path(subset(score))} or {path} lacks; run `dvc repro`"
            )
        for test, result in enumerate(results):
            attempts = [] if result["missing"] else _attempts(submission[name][test], solutions[name][test])
            if any(attempt.right for attempt in attempts) != result["solved"]:
                raise StageError(
                    f"task {name}, test {test}: {path} and {paths.score(checkpoint, evaluation)} disagree about "
                    "whether it is solved; run the stage score again"
                )
            note = f"{result['votes_for_the_answer']} of {result['views']} {unit} right"
            puzzle, answer = puzzles[name], solutions[name][test]
            drawn.append(Card(name, test, note, puzzle.demonstrations, puzzle.tests[test], answer, attempts))
    return drawn


def is_solved(card: Card) -> bool:
    """Whether one of its attempts is right."""
    return any(attempt.right for attempt in card.attempts)


def denoising_examples(sources: Sequence[Row], solutions: Solutions) -> DenoisingExamples:
    """Search the predictions of `sources`, in this order, for one right and one wrong example."""
    examples: dict[bool, Denoising] = {}
    chosen = DenoisingExamples([], None, {}, {})
    for source in sources:
        answers = _with_frames(source, solutions)
        if answers and chosen.source is None:
            chosen = DenoisingExamples([], source, *_means(answers))
        for right in {True, False} - set(examples):
            # Of the right size if there is one, then the largest, then the first.
            best = max(
                (a for a in answers if a["right"] == right), key=lambda a: (a["sized"], a["grid"].size), default=None
            )
            if best:
                examples[right] = _denoising(best, source, solutions)
        if len(examples) == 2:
            break
    return chosen._replace(examples=[examples[right] for right in (True, False) if right in examples])


def _attempts(entry: Mapping[str, Any], answer: Grid) -> list[Attempt]:
    first, second = (np.array(entry[f"attempt_{i}"], dtype=np.uint8) for i in (1, 2))
    same = np.array_equal(first, second)
    named = {"both attempts": first} if same else {"attempt 1": first, "attempt 2": second}
    return [
        Attempt(name, _verdict(grid, answer), grid, np.array_equal(grid, answer), f"{name}, {_described(grid, answer)}")
        for name, grid in named.items()
    ]


def _verdict(grid: Grid, answer: Grid) -> str:
    if grid.shape != answer.shape:
        return "{} × {} for {} × {}".format(*grid.shape, *answer.shape)
    wrong = int((grid != answer).sum())
    return f"{wrong} of {answer.size} wrong" if wrong else "right"


def _described(grid: Grid, answer: Grid) -> str:
    if grid.shape != answer.shape:
        return "of the wrong size ({} × {} instead of {} × {})".format(*grid.shape, *answer.shape)
    wrong = int((grid != answer).sum())
    return f"wrong in {wrong} of {answer.size} cells" if wrong else "right"


def _with_frames(source: Row, solutions: Solutions) -> list[dict[Any, Any]]:
    """The predictions that have frames, with flags `right` (equal to the answer) and `sized` (of its size)."""
    frame, _ = predictions.read(paths.predictions(source.checkpoint, source.evaluation))
    frame = frame[[frames is not None and len(frames) > 0 for frames in frame["frames"]]]
    kept: list[dict[Any, Any]] = frame.to_dict("records")
    for row in kept:
        answer = solutions[row["task"]][row["test"]]
        row |= {"right": np.array_equal(row["grid"], answer), "sized": row["grid"].shape == answer.shape}
    return kept


def _means(answers: Sequence[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, dict[str, Floats]]]:
    ends = {"right": [a for a in answers if a["right"]], "wrong": [a for a in answers if not a["right"]]}
    ends = {name: group for name, group in ends.items() if group}
    columns = ("change", "confidences", "entropy")
    means = {
        column: {
            name: np.stack([a[column] for a in group]).astype(np.float64).mean(axis=0) for name, group in ends.items()
        }
        for column in columns
    }
    return {name: len(group) for name, group in ends.items()}, means


def _denoising(row: Mapping[str, Any], source: Row, solutions: Solutions) -> Denoising:
    frames = [np.frombuffer(cells, dtype=np.uint8).reshape(row["grid"].shape) for cells in row["frames"]]
    done = (
        np.linspace(0, len(row["change"]), len(frames)).round().astype(int).tolist()
    )  # As model.inference.denoising keeps them.
    number = int(row["view"] if source.votes else row["attempt"])
    return Denoising(
        row["task"],
        int(row["test"]),
        source,
        number,
        bool(row["right"]),
        list(zip(done, frames, strict=True)),
        solutions[row["task"]][row["test"]],
    )
