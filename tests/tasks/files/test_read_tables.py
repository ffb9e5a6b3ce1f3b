"""Predictions and tables read from files that were written by hand: what is refused, and what is filled in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files import predictions, tables
from tests.conftest import experiment
from tests.support.small_experiment import ANSWERS, FILES, build

SOURCE = {
    "checkpoint": "c",
    "step": 3,
    "weights": "ema",
    "experiment": "v3/tiny/aa1",
    "seed": 0,
    "evaluation_name": "votes",
    "evaluation": experiment().evaluations["votes"].model_dump(mode="json"),
    "data": "d",
    "leaks": 0,
    "failures": [],
}


def row(task: str = "a", height: int = 2, width: int = 3, cells: bytes = b"\1\2\3\4\5\6") -> dict[str, Any]:
    return {"task": task, "test": 0, "view": 0, "attempt": 0, "height": height, "width": width, "cells": cells}


def put(path: Path, rows: list[dict[str, Any]], source: Any = SOURCE, schema: Any = predictions.SCHEMA) -> Path:
    text = source if isinstance(source, bytes) else json.dumps(source).encode()
    pq.write_table(pa.Table.from_pylist(rows, schema.with_metadata({"source": text})), path)
    return path


def test_cells_are_grids_of_their_rows_height_and_width(tmp_path: Path) -> None:
    frame, source = predictions.read(put(tmp_path / "a", [row(), row("b", 3, 1, b"\7\x08\x09")]))
    assert [grid.tolist() for grid in frame["grid"]] == [[[1, 2, 3], [4, 5, 6]], [[7], [8], [9]]]
    assert list(frame["task"]) == ["a", "b"]
    assert source.model_dump(mode="json") == SOURCE


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 3), (1, 5), (7, 1)])
def test_a_grid_of_another_number_of_cells_is_refused(tmp_path: Path, height: int, width: int) -> None:
    path = put(tmp_path / "a", [row(), row("b", height, width)])
    with pytest.raises(StageError) as refused:
        predictions.read(path)
    says = f"{path}: a grid of {height} x {width} has 6 cells; run the stage predict again"
    assert str(refused.value) == says


def test_what_older_files_lack_is_what_they_were_made_with(tmp_path: Path) -> None:
    evaluation = {name: value for name, value in SOURCE["evaluation"].items() if name not in predictions.ADDED}  # type: ignore[attr-defined]
    schema = pa.schema([field for field in predictions.SCHEMA if field.name != "log_likelihoods"])
    path = put(tmp_path / "a", [row(), row("b")], SOURCE | {"evaluation": evaluation}, schema)
    frame, source = predictions.read(path)
    assert (source.evaluation.transposed_sizes, source.evaluation.task_row) == ("swapped", "view")
    assert (source.evaluation.weights, source.evaluation.subset) == ("as-trained", "evaluation")
    assert (source.evaluation.stop_decided, source.evaluation.ranking) == (None, None)
    assert frame["log_likelihoods"].tolist() == [None, None]
    other = SOURCE | {"evaluation": evaluation | {"weights": "raw", "subset": "training"}}
    _, source = predictions.read(put(tmp_path / "b", [row()], other, schema))
    assert (source.evaluation.weights, source.evaluation.subset) == ("raw", "training")


@pytest.mark.parametrize(
    ("source", "where"),
    [
        (b"", "source: Invalid JSON"),
        (b"[]", "source: Input should be an object"),
        (b'{"step": 3, "evaluation": 7}', "source.checkpoint: Field required"),
        (SOURCE | {"step": "three"}, "source.step: Input should be a valid integer"),
        (SOURCE | {"evaluation": SOURCE["evaluation"] | {"steps": 0}}, "source.evaluation.steps: "),  # type: ignore[operator]
    ],
)
def test_a_source_that_is_none_is_explained(tmp_path: Path, source: Any, where: str) -> None:
    path = put(tmp_path / "a", [row()], source)
    with pytest.raises(StageError) as refused:
        predictions.read(path)
    text = str(refused.value)
    assert text.startswith(f"{path} is no complete predictions file: its metadata {where}")
    assert text.endswith("; run the stage predict again")


def test_files_without_metadata_or_with_other_columns_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a", [row()], schema=pa.schema([*predictions.SCHEMA, pa.field("more", pa.int8())]))
    with pytest.raises(StageError, match=r"has columns \['task'.*'more'\]; expected \['task'.*'log_likelihoods'\]$"):
        predictions.read(path)
    pq.write_table(pa.table({"task": ["a"]}), path)
    with pytest.raises(StageError, match="is no complete predictions file: its metadata source: Invalid JSON"):
        predictions.read(path)
    path.write_bytes(b"PAR1")
    for broken in (path, tmp_path / "none"):
        with pytest.raises(StageError, match=r"is no complete predictions file: .*; run the stage predict again$"):
            predictions.read(broken)


def test_a_kept_copy_lacks_the_steps_alone(tmp_path: Path) -> None:
    steps = {"change": [0.5], "confidences": [0.25], "entropy": [1.0], "frames": [b"\1"], "confidence": 0.75}
    put(tmp_path / "a", [row() | steps, row("b")])
    predictions.keep(tmp_path / "a", tmp_path / "whole")
    predictions.keep(tmp_path / "a", tmp_path / "part", whole=False)
    whole, part = (pq.read_table(tmp_path / name).to_pylist() for name in ("whole", "part"))
    assert whole == pq.read_table(tmp_path / "a").to_pylist()
    assert part == [given | dict.fromkeys(predictions.ALONG_THE_DENOISING) for given in whole]
    assert whole[0]["frames"] == [b"\1"]


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (None, "cells.npy is damaged or missing: "),
        (b"", "cells.npy is damaged or missing: "),
        (b"no array", "cells.npy is damaged or missing: "),
        (np.array([0, 10], dtype=np.uint8), "cells.npy is damaged: it has other values than colours"),
        (np.array([1, 2], dtype=np.int16), "cells.npy is damaged: it has other values than colours"),
        (np.array([[1, 2]], dtype=np.uint8), "cells.npy is damaged: it has other values than colours"),
    ],
)
def test_cells_that_are_no_colours_are_refused(workspace: Path, cells: Any, says: str) -> None:
    paths.PREPARED.mkdir()
    if isinstance(cells, bytes):
        paths.CELLS.write_bytes(cells)
    elif cells is not None:
        np.save(paths.CELLS, cells)
    with pytest.raises(StageError, match=says) as refused:
        tables.read_cells()
    ending = "run the stage prepare again" if "values" in says else "run `dvc repro`"
    assert str(refused.value).endswith(f"; {ending}")


@pytest.mark.parametrize("cells", [[], [0, 9, 5]])
def test_colours_are_0_to_9_and_may_be_none(workspace: Path, cells: list[int]) -> None:
    paths.PREPARED.mkdir()
    np.save(paths.CELLS, np.array(cells, dtype=np.uint8))
    assert tables.read_cells().tolist() == cells


def test_a_table_is_read_back_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    tables.write_table(path, pd.DataFrame({"x": [3, 1], "y": ["b", "a"]}, index=[7, 8]))
    assert tables.read_table(path).to_dict("list") == {"x": [3, 1], "y": ["b", "a"]}
    path.write_bytes(b"PAR1")
    for broken in (path, tmp_path / "none"):
        with pytest.raises(StageError) as refused:
            tables.read_table(broken)
        assert str(refused.value).startswith(f"{broken} is damaged or missing: ")
        assert str(refused.value).endswith("; run `dvc repro`")
        assert "\n" not in str(refused.value)


def test_pairs_of_a_split_have_their_grids_by_task_and_number(workspace: Path) -> None:
    build()
    found = tables.read_pairs("evaluation")
    tests = FILES["arc-agi_evaluation_challenges.json"]
    assert {key: grid.tolist() for key, (grid, _) in found.items()} == {
        (name, i): pair["input"] for name, task in tests.items() for i, pair in enumerate(task["test"])
    }
    assert all(answer is None for _, answer in found.values()), "they are hidden"
    shown = {key: answer.tolist() for key, (_, answer) in tables.read_pairs("train").items() if answer is not None}
    first = FILES["arc-agi_training_challenges.json"]["aaaaaaaa"]["train"]
    assert [shown["aaaaaaaa", i] for i in range(2)] == [pair["output"] for pair in first], (
        "the first lies at cell 0 or 3"
    )
    held = tables.read_solutions("evaluation")
    assert {name: [grid.tolist() for grid in grids] for name, grids in held.items()} == ANSWERS


def test_an_output_at_the_first_cell_is_one(workspace: Path) -> None:
    build()
    table, before = tables.read_table(paths.PAIRS), tables.read_pairs("train")
    both = [f"{side}_{part}" for side in ("input", "output") for part in ("offset", "height", "width")]
    table[both] = table[both[3:] + both[:3]].to_numpy()  # Inputs and outputs change places.
    tables.write_table(paths.PAIRS, table)
    assert 0 in table[table["split"] == "train"]["output_offset"].tolist()
    for key, (given, answer) in tables.read_pairs("train").items():
        assert answer is not None
        assert before[key][1] is not None
        assert (given.tolist(), answer.tolist()) == (before[key][1].tolist(), before[key][0].tolist())


def test_without_validation_tasks_a_training_cannot_measure_itself(workspace: Path) -> None:
    build()
    table = tables.read_table(paths.PAIRS)
    tables.write_table(paths.PAIRS, table[table["split"] != "validation"])
    with pytest.raises(StageError) as refused:
        tables.read_validation(paths.TRAINING_VIEWS)
    assert str(refused.value) == (
        f"{paths.PAIRS} has no validation pair: prepare.validation found no task to hold out; give data/own "
        "training tasks, or set prepare.validation: evaluation-solutions"
    )
    paths.TASKS.unlink()
    with pytest.raises(StageError, match=r"tasks\.json cannot be read: .*; run `dvc repro`$"):
        tables.read_tasks()


def test_validation_pairs_have_their_solutions_as_outputs(workspace: Path) -> None:
    build(prepare={"validation_tasks": 2})
    data, names = tables.read_validation(paths.TRAINING_VIEWS), [task["name"] for task in tables.read_tasks()]
    p, solved = data.pairs, FILES["arc-agi_training_solutions.json"]
    found: dict[str, list[Any]] = {}
    for i in range(len(p)):
        size = p.output_height[i] * p.output_width[i]
        cells = data.cells[p.output_offset[i] : p.output_offset[i] + size]
        found.setdefault(names[p.task[i]], []).append(cells.reshape(p.output_height[i], p.output_width[i]).tolist())
    assert found == solved
