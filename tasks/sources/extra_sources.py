"""Collects the sources of `fetch.extra` for the stage `fetch`; extra_tasks.py says in which files and reads them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config.data import ARC_AGI_2, REARC, Fetch
from model.puzzles.grids import GridError
from model.storage.atomic import write_text
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.sources import arckit_tasks, rearc
from tasks.sources.extra_tasks import checked
from tasks.sources.official import read_official


def collect(config: Fetch) -> None:
    """Write data/raw/extra. The official files of the set must be in data/raw. Raises StageError or GridError.

    Tasks whose id the set itself has are left out, above all those of its evaluation tasks; `prepare` finds further
    evaluated pairs by their cells.
    """
    shutil.rmtree(paths.EXTRA, ignore_errors=True)
    taken = {split: set(read_official(paths.raw(split, "challenges"))) for split in arckit_tasks.SPLITS if config.extra}
    seen: dict[str, str] = {}
    for source in config.extra:
        if source == REARC:
            contents: dict[str, Any] = rearc.generate(config.rearc, dict.fromkeys(taken["training"]))
            note = f"{sum(map(len, contents.values()))} pairs of {len(contents)} tasks"
        else:
            tasks = tasks_of(source)
            contents = {name: tasks[name] for name in sorted(set(tasks).difference(*taken.values()))}
            left_out = ", ".join(f"{len(set(tasks) & names)} of the {split} set" for split, names in taken.items())
            note = f"{len(contents)} tasks; left out, by their ids: {left_out}"
            if not contents:
                raise StageError(f"fetch.extra names {source!r}, but every task of it is in the set already; {note}")
            for name in contents:
                if seen.setdefault(name, source) != source:
                    raise StageError(f"task {name} is in two sources of fetch.extra, {seen[name]!r} and {source!r}")
        paths.EXTRA.mkdir(parents=True, exist_ok=True)
        write_text(paths.extra(source), json.dumps(contents, separators=(",", ":")))
        print(f"{source}: {note}")


def tasks_of(source: str) -> dict[str, Any]:
    """Every task of a source other than 'rearc', by id. Raises StageError or GridError."""
    return _arc_agi_2() if source == ARC_AGI_2 else _folder(paths.OWN / source)


def _arc_agi_2() -> dict[str, Any]:
    """The training tasks of ARC-AGI-2 whose id is in neither set of ARC-AGI-1, which holds 376 evaluation tasks."""
    one, two = (arckit_tasks.from_arckit(edition) for edition in ("arcagi", "arcagi2"))
    first_edition = set(one["training", "challenges"]) | set(one["evaluation", "challenges"])
    tasks = _solved(two["training", "challenges"], two["training", "solutions"])
    return {name: task for name, task in tasks.items() if name not in first_edition}


def _folder(folder: Path) -> dict[str, Any]:
    """Tasks of all JSON files in a folder and its folders: official challenges with their solutions, or one a file."""
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise StageError(
            f"fetch.extra names {folder.name!r}, but {folder} has no JSON files; see {paths.OWN}/README.md"
        )
    tasks: dict[str, Any] = {}
    for file in files:
        if file.stem.endswith("_solutions"):
            continue
        contents = read_official(file)
        file_tasks = {file.stem: contents}
        if file.stem.endswith("_challenges"):
            solutions = file.with_name(file.name.replace("_challenges", "_solutions"))
            file_tasks = _solved(contents, read_official(solutions), solutions)
        for name, task in file_tasks.items():
            if name in tasks:
                raise GridError(f"{file}: task {name} is in another file of {folder} too; every id must be unique")
            checked(file, name, task)
            tasks[name] = task
    return tasks


def _solved(challenges: Mapping[str, Any], solutions: Mapping[str, Any], where: Path | None = None) -> dict[str, Any]:
    """Challenges with their solutions filled in."""
    tasks = {}
    for name, task in challenges.items():
        outputs, tests = solutions.get(name), task.get("test") if isinstance(task, dict) else None
        if not isinstance(outputs, list) or not isinstance(tests, list) or len(outputs) != len(tests):
            raise GridError(f"{where}: task {name}: there must be one output for each test input")
        tasks[name] = {
            "train": task.get("train"),
            # What is no pair stays as it is, for `checked` to refuse with its file.
            "test": [
                {"input": test.get("input"), "output": output} if isinstance(test, dict) else test
                for test, output in zip(tests, outputs, strict=True)
            ],
        }
    return tasks
