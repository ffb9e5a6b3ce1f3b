"""The official submission file: written for every score, and read back by `python -m tasks.files.submission FILE`.

That command scores any submission for the evaluation tasks of data/prepared, from any solver. As for the ARC
Prize, it must be complete: a file that lacks a task is refused, never scored on the tasks it contains.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from model.puzzles.grids import Grid, GridError, grid
from model.scoring.scores import NOTHING, Key, score
from model.scoring.wording import interval, percent
from model.storage.atomic import write_text
from tasks.common.documents import DocumentError, read_json
from tasks.common.stage import StageError, stage
from tasks.files.tables import read_solutions

BLACK = [[0]]
"""Replaces an attempt that does not exist."""


def submission(tests: Mapping[str, int], attempts: Mapping[Key, Sequence[Grid]]) -> dict[str, Any]:
    """The file's contents for `tests`, task id -> number of test inputs. A single attempt is written twice."""

    def entry(key: Key) -> dict[str, Any]:
        grids = [attempt.tolist() or BLACK for attempt in attempts.get(key, ())] or [BLACK]
        return {"attempt_1": grids[0], "attempt_2": grids[-1]}

    return {name: [entry((name, i)) for i in range(count)] for name, count in tests.items()}


def write(path: Path, contents: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(contents, separators=(",", ":")))


def read(path: Path, tests: Mapping[str, int]) -> dict[Key, list[Grid]]:
    """The attempts of a submission for these tasks. Raises StageError if it is invalid or incomplete."""
    try:
        contents = read_json(path)
    except DocumentError as error:
        advice = "" if isinstance(error.__cause__, OSError) else "; write the submission again"
        raise StageError(f"{error}{advice}") from error
    if not isinstance(contents, dict):
        raise StageError(f"{path}: expected an object of tasks by id, found {str(contents)[:40]}")
    for fault, names in (("lacks", set(tests) - set(contents)), ("answers unknown", set(contents) - set(tests))):
        if names:
            raise StageError(f"{path} {fault} {len(names)} of {len(tests)} tasks: {_some(names)}; it must answer each")
    attempts = {}
    for name, count in tests.items():
        entries = contents[name]
        if not isinstance(entries, list) or len(entries) != count:
            raise StageError(f"{path}: task {name} must be a list of {count}, one entry a test input")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or set(entry) != {"attempt_1", "attempt_2"}:
                raise StageError(f"{path}: task {name}, test {i} must have 'attempt_1' and 'attempt_2', nothing else")
            try:
                attempts[name, i] = [
                    grid(entry[key], f"{path}: task {name}, test {i}, {key}") if entry[key] else NOTHING
                    for key in ("attempt_1", "attempt_2")
                ]
            except GridError as error:
                raise StageError(str(error)) from error
    return attempts


@stage("submission")
def main(file: Annotated[Path, typer.Argument(help="An official submission.json")]) -> None:
    """Score a submission for the evaluation tasks of data/prepared."""
    solutions = read_solutions("evaluation")
    result = score(solutions, read(file, {name: len(grids) for name, grids in solutions.items()}), {}, 10000)
    low, high = result["ci95"]
    print(
        f"{file}: pass@2 {percent(result['pass_at_2'])} % [{interval((low, high))}], "
        f"{result['grids_solved']} of {result['n_grids']} grids, {result['n_tasks']} tasks"
    )


def _some(names: Iterable[str]) -> str:
    chosen = sorted(names)
    return ", ".join(chosen[:5]) + (", ..." if len(chosen) > 5 else "")


if __name__ == "__main__":
    typer.run(main)
