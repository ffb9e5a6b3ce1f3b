"""The packed tables between stages: parquet and npy files to and from `model.puzzles.arrays`'s arrays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.config.data import REARC
from model.puzzles.arrays import Dataset, Ints, Pairs, Views
from model.puzzles.grids import Grid
from model.storage.atomic import atomic_path
from model.storage.digests import digest
from tasks.common import paths
from tasks.common.documents import DocumentError, read_json
from tasks.common.stage import StageError

SPLITS = ("train", "validation", "evaluation", "training")
"""Of pairs.parquet: the pairs trained on; test inputs of the tasks that are held out, of the evaluation set, and of the
training set, whose pairs with their outputs are in 'train' too."""


def read_tasks() -> list[dict[str, Any]]:
    """The task index: name and origin ('training', 'evaluation' or a source of fetch.extra) of each task, in order."""
    return list(_json(paths.TASKS))


def read_solutions(split: str) -> dict[str, list[Grid]]:
    """Solutions of the 'validation', 'evaluation' or 'training' test inputs.

    Those of validation are for select, for train to measure itself, and for score, which reads any that are asked.
    """
    solved = _json(solutions_path(split)).items()
    return {name: [np.array(g, dtype=np.uint8) for g in grids] for name, grids in solved}


def solutions_path(split: str) -> Path:
    """The file of these solutions."""
    return {
        "validation": paths.VALIDATION_SOLUTIONS,
        "evaluation": paths.EVALUATION_SOLUTIONS,
        "training": paths.TRAINING_SOLUTIONS,
    }[split]


def read_origins(split: str) -> NDArray[np.str_]:
    """The origin of every pair of a split, in `read_dataset`'s order: that of its task, or 'rearc' if generated."""
    table = pd.read_parquet(paths.PAIRS, columns=["split", "origin"])
    return np.array(table[table["split"] == split]["origin"], dtype=np.str_)


def read_pairs(split: str) -> dict[tuple[str, int], tuple[Grid, Grid | None]]:
    """Input and output (None where it is not known) of every pair of a split, by task id and number."""
    names, table, cells = [task["name"] for task in read_tasks()], read_table(paths.PAIRS), read_cells()

    def grid(row: Any, side: str) -> Grid:
        start, height, width = (int(row[f"{side}_{part}"]) for part in ("offset", "height", "width"))
        cropped: Grid = cells[start : start + height * width].reshape(height, width)
        return cropped

    return {
        (names[row["task"]], int(row["number"])): (
            grid(row, "input"),
            grid(row, "output") if row["output_offset"] >= 0 else None,
        )
        for row in table[table["split"] == split].to_dict("records")
    }


def read_demonstrations() -> dict[str, list[tuple[Grid, Grid]]]:
    """Input and output of every demonstration, by task id: the pairs trained on but generated ones and test pairs."""
    tests = {(name, grid.shape, grid.tobytes()) for (name, _), (grid, _) in read_pairs("training").items()}
    demonstrations: dict[str, list[tuple[Grid, Grid]]] = {}
    origins = read_origins("train")
    for origin, ((name, _), (grid, answer)) in zip(origins, read_pairs("train").items(), strict=True):
        if answer is not None and origin != REARC and (name, grid.shape, grid.tobytes()) not in tests:
            demonstrations.setdefault(name, []).append((grid, answer))
    return demonstrations


def read_dataset(split: str, views: Path) -> Dataset:
    """Pairs of one split with the views of every task."""
    table = read_table(paths.PAIRS)
    table = table[table["split"] == split]
    pairs = Pairs(**{name: table[name].to_numpy(np.int64) for name in Pairs.__dataclass_fields__})
    return Dataset(read_cells(), pairs, read_views(views))


def read_validation(views: Path) -> Dataset:
    """The pairs of the validation split with their solutions as outputs, for a training to measure itself."""
    dataset, names, solutions = read_dataset("validation", views), read_tasks(), read_solutions("validation")
    p = dataset.pairs
    if len(p) == 0:
        raise StageError(
            f"{paths.PAIRS} has no validation pair: prepare.validation found no task to hold out; give data/own "
            "training tasks, or set prepare.validation: evaluation-solutions"
        )
    outputs = [solutions[names[task]["name"]][number] for task, number in zip(p.task, p.number, strict=True)]
    sizes = np.array([grid.size for grid in outputs])
    pairs = replace(
        p,
        output_offset=len(dataset.cells) + sizes.cumsum() - sizes,
        output_height=np.array([grid.shape[0] for grid in outputs]),
        output_width=np.array([grid.shape[1] for grid in outputs]),
    )
    return Dataset(np.concatenate([dataset.cells, *(grid.ravel() for grid in outputs)]), pairs, dataset.views)


def read_cells() -> NDArray[np.uint8]:
    """Cells of every grid, back to back. Raises StageError."""
    try:
        cells: NDArray[np.uint8] = np.load(paths.CELLS)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise StageError(f"{paths.CELLS} is damaged or missing: {error}; run `dvc repro`") from error
    if cells.dtype != np.uint8 or cells.ndim != 1 or (len(cells) and cells.max() > 9):
        raise StageError(f"{paths.CELLS} is damaged: it has other values than colours; run the stage prepare again")
    return cells


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as parquet atomically, each page with a checksum."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False, write_page_checksum=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read what `write_table` wrote. Raises StageError."""
    try:
        frame: pd.DataFrame = pq.read_table(path, page_checksum_verification=True).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{path} is damaged or missing: {reason}; run `dvc repro`") from error
    return frame


def write_views(path: Path, task: Ints, views: Views) -> None:
    """One row a view; `task` (views,) is the task of each."""
    frame = pd.DataFrame({"task": task, "element": views.element, "colour_cycle": views.colour_cycle})
    for colour in range(views.colours.shape[1]):
        frame[f"colour_{colour}"] = views.colours[:, colour]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, frame)


def read_views(path: Path) -> Views:
    """The views of every task, grouped by task."""
    frame = read_table(path)
    task = frame["task"].to_numpy(np.int64)
    count = np.bincount(task)
    colours = frame[[f"colour_{c}" for c in range(10)]].to_numpy(np.uint8)
    return Views(
        count.cumsum() - count,
        count,
        frame["element"].to_numpy(np.int64),
        colours,
        frame["colour_cycle"].to_numpy(np.int64),
    )


def data_digest() -> str:
    """Digest of the prepared data that training reads."""
    return digest(paths.CELLS, paths.PAIRS, paths.TASKS)


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except DocumentError as error:
        raise StageError(f"{error}; run `dvc repro`") from error
