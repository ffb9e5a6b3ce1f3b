"""Stored predictions: parquet, one row per task, test input, view and attempt; their source is in the metadata."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from model.config.base import Frozen
from model.config.evaluation import Evaluation
from model.puzzles.grids import Grid
from model.storage.atomic import atomic_path
from tasks.common.documents import parse_json
from tasks.common.stage import StageError

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("test", pa.int16()),
        ("view", pa.int16()),
        ("attempt", pa.int8()),
        ("height", pa.int8()),
        ("width", pa.int8()),
        ("cells", pa.binary()),
        ("size_log_probability", pa.float32()),
        ("confidence", pa.float32()),
        ("last_changed_step", pa.int16()),
        ("change", pa.list_(pa.float32())),
        ("confidences", pa.list_(pa.float32())),
        ("entropy", pa.list_(pa.float32())),
        ("frames", pa.list_(pa.binary())),
        ("log_likelihoods", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""`cells` and `frames` are uint8, row-major, in the task's own frame; the rest as in `answer.Answer`."""
ALONG_THE_DENOISING = ("change", "confidences", "entropy", "frames")
"""Columns with values at each step, of view 0 alone."""
ADDED_COLUMN = "log_likelihoods"
"""Which older files lack; without a value in them."""


class Source(Frozen):
    """Checkpoint, evaluation and data that predictions were made from."""

    checkpoint: str
    """Digest of the checkpoint's files."""
    step: int
    weights: str
    experiment: str
    seed: int
    evaluation_name: str
    evaluation: Evaluation
    data: str
    """Digest of the prepared data that was trained on."""
    leaks: int
    failures: Annotated[tuple[tuple[str, int, int, int, str], ...], Field(strict=False)]
    """Task, test input, view, attempt and error message of every failed answer."""


ADDED = {
    "weights": "as-trained",
    "transposed_sizes": "swapped",
    "task_row": "view",
    "subset": "evaluation",
    "stop_decided": None,
    "ranking": None,
}
"""Settings of an evaluation that older files lack, with the values that those files were made with."""


def write(path: Path, rows: Sequence[dict[str, Any]], source: Source) -> None:
    """Write rows of SCHEMA atomically."""
    table = pa.Table.from_pylist(list(rows), SCHEMA.with_metadata({"source": source.model_dump_json()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def keep(file: Path, target: Path, whole: bool = True) -> None:
    """Copy a predictions file, well compressed; without ALONG_THE_DENOISING if not `whole`."""
    table = pq.read_table(file, page_checksum_verification=True)
    for name in () if whole else ALONG_THE_DENOISING:
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.nulls(len(table), field.type))
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=19, write_page_checksum=True)


def joined(parts: Sequence[Path]) -> tuple[list[dict[str, Any]], Source]:
    """Rows and source of the files that several processes wrote; removes those files."""
    tables = [pq.read_table(part) for part in parts]
    sources = [Source.model_validate_json(table.schema.metadata[b"source"]) for table in tables]
    failures = tuple(sorted(failure for source in sources for failure in source.failures))
    for part in parts:
        part.unlink()
    return [row for table in tables for row in table.to_pylist()], sources[0].model_copy(update={"failures": failures})


def read(path: Path) -> tuple[pd.DataFrame, Source]:
    """Rows, with `cells` as grids, and their source. Raises StageError if the file is incomplete or invalid."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        source = _source((table.schema.metadata or {}).get(b"source", b""))
    except (OSError, pa.ArrowException) as error:
        raise StageError(f"{path} is no complete predictions file: {error}; run the stage predict again") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(["source", *map(str, fault["loc"])])
        raise StageError(
            f"{path} is no complete predictions file: its metadata {where}: {fault['msg']}; run the stage predict again"
        ) from error
    if ADDED_COLUMN not in table.schema.names:
        table = table.append_column(SCHEMA.field(ADDED_COLUMN), pa.nulls(len(table), SCHEMA.field(ADDED_COLUMN).type))
    if table.schema.names != SCHEMA.names:
        raise StageError(f"{path} has columns {table.schema.names}; expected {SCHEMA.names}")
    frame = table.to_pandas()
    frame["grid"] = [
        _grid(path, c, h, w) for c, h, w in zip(frame["cells"], frame["height"], frame["width"], strict=True)
    ]
    return frame, source


def _source(text: bytes) -> Source:
    try:
        values = parse_json(text, "source")
        values["evaluation"] = ADDED | values["evaluation"]
    except (ValueError, TypeError, KeyError):
        return Source.model_validate_json(text)  # It explains what is wrong.
    return Source.model_validate_json(json.dumps(values))


def _grid(path: Path, cells: bytes, height: int, width: int) -> Grid:
    if len(cells) != height * width:
        raise StageError(f"{path}: a grid of {height} x {width} has {len(cells)} cells; run the stage predict again")
    return np.frombuffer(cells, dtype=np.uint8).reshape(height, width)
