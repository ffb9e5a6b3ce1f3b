"""Predictions that are cut short, of other data or not predictions at all: a clear error, and nothing overwritten."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import predict, score
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.files import predictions
from tests.support.small_experiment import FILES, build, save_checkpoint


@pytest.fixture
def scored(workspace):
    """A predicted and scored evaluation, and its file."""
    save_checkpoint(build())
    predict.main("best", "votes")
    score.main("best", "votes")
    return paths.predictions("best", "votes")


def _refused(capsys) -> str:
    """The error of scoring again; score and submission must be as before."""
    files = (paths.score("best", "votes"), paths.submission("best", "votes"))
    before = [file.read_bytes() for file in files]
    with pytest.raises(SystemExit) as stopped:
        score.main("best", "votes")
    assert [file.read_bytes() for file in files] == before
    assert not list(paths.SCORES.glob("*.part"))
    message = str(stopped.value)
    assert message.startswith("score: ")
    assert "\n" not in message
    return message


def _rewrite(path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def test_what_is_written_is_read(scored):
    frame, source = predictions.read(scored)
    assert len(frame) == 3 * 8
    assert sorted(set(zip(frame["task"], frame["test"], strict=True))) == [
        ("cccccccc", 0),
        ("dddddddd", 0),
        ("dddddddd", 1),
    ]
    assert all(grid.shape == (h, w) for grid, h, w in zip(frame["grid"], frame["height"], frame["width"], strict=True))
    assert (source.evaluation.views, source.failures, source.leaks) == (8, (), 0)
    # Curves and frames of view 0 alone: of all views they would be most of the file.
    first = frame["view"] == 0
    assert all(len(curve) == source.evaluation.steps for curve in frame[first]["change"])
    assert frame[~first]["change"].isna().all()
    assert all(len(frames) == 3 for frames in frame[first]["frames"])


def test_the_same_predictions_are_the_same_bytes(scored):
    before = scored.read_bytes()
    predict.main("best", "votes")
    assert scored.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_file_that_is_cut_short(scored, capsys, share):
    contents = scored.read_bytes()
    scored.write_bytes(contents[: int(len(contents) * share)])
    assert "is no complete predictions file" in _refused(capsys)
    assert "run the stage predict again" in _refused(capsys)


def test_a_file_that_is_missing(scored, capsys):
    scored.unlink()
    assert "is no complete predictions file" in _refused(capsys)


CHANGES: dict[str, tuple[Callable[[pa.Table], Any], str]] = {
    "no source": (lambda t: t.replace_schema_metadata({}), "is no complete predictions file"),
    "other columns": (lambda t: t.drop_columns(["last_changed_step"]), "has columns"),
    "cells that are cut": (
        lambda t: _with(t, "cells", [c[:-1] for c in t["cells"].to_pylist()]),
        "cells; run the stage predict again",
    ),
    "an unknown task": (lambda t: _with(t, "task", ["eeeeeeee"] * len(t)), "answers 1 tasks that"),
    "a test that there is not": (lambda t: _with(t, "test", [7] * len(t)), "for test 7, which is out of range"),
    "a view that there is not": (lambda t: _with(t, "view", [8] * len(t)), "for view 8, which is out of range"),
    "an answer twice": (
        lambda t: pa.concat_tables([t, t.slice(0, 1)]),
        "task cccccccc, test 0, view 0 is answered twice",
    ),
}


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_file_with_something_wrong(scored, capsys, name):
    change, says = CHANGES[name]
    _rewrite(scored, change)
    assert says in _refused(capsys)


def test_predictions_of_another_dataset(scored, capsys):
    source = json.loads(pq.read_schema(scored).metadata[b"source"])
    source["experiment"] = "v3/tiny/aa2"
    _rewrite(scored, lambda t: t.replace_schema_metadata({"source": json.dumps(source)}))
    assert "is of v3/tiny/aa2, but data/experiment.yaml is of dataset 'aa1-6x6'" in _refused(capsys)


def test_rows_that_are_missing_are_wrong_answers_and_named(scored, capsys):
    whole = json.loads(paths.score("best", "votes").read_text())
    _rewrite(scored, lambda t: t.filter([task != "dddddddd" for task in t["task"].to_pylist()]))
    score.main("best", "votes")
    found = json.loads(paths.score("best", "votes").read_text())
    assert (found["n_tasks"], found["n_grids"]) == (whole["n_tasks"], whole["n_grids"]) == (2, 3)
    assert found["missing"] == [["dddddddd", 0], ["dddddddd", 1]]
    assert "task dddddddd, test 1 has no answer and counts as wrong" in capsys.readouterr().out


def test_a_checkpoint_of_another_dataset_predicts_nothing(scored):
    before = scored.read_bytes()
    files = {
        name: {("ffffffff" if key == "dddddddd" else key): value for key, value in contents.items()}
        for name, contents in FILES.items()
    }
    build(files)
    with pytest.raises(SystemExit) as stopped:
        predict.main("best", "votes")
    assert "was trained on another task index" in str(stopped.value)
    assert "ffffffff" in str(stopped.value)
    assert "dddddddd" in str(stopped.value)
    assert scored.read_bytes() == before


def test_a_write_that_fails_leaves_what_was_there(scored):
    before = scored.read_bytes()
    _, source = predictions.read(scored)
    with pytest.raises((pa.ArrowException, TypeError)):
        predictions.write(scored, [{"task": 3}], source)
    assert scored.read_bytes() == before
    with pytest.raises(StageError, match="no complete predictions file"):
        predictions.read(scored.parent / "none.parquet")


def test_parts_of_several_processes_are_joined_and_gone(scored, tmp_path):
    _, source = predictions.read(scored)
    rows = pq.read_table(scored).to_pylist()
    failed = [("b", 0, 1, 0, "second"), ("a", 0, 1, 0, "first")]
    parts = [tmp_path / name for name in ("0", "1")]
    for part, own, failure in zip(parts, (rows[::2], rows[1::2]), failed, strict=True):
        predictions.write(part, own, source.model_copy(update={"failures": (failure,)}))
    together, whole = predictions.joined(parts)
    assert together == rows[::2] + rows[1::2]
    assert whole == source.model_copy(update={"failures": (failed[1], failed[0])})
    assert not any(part.exists() for part in parts)


@pytest.mark.parametrize("whole", [True, False])
def test_a_kept_file_is_whole_or_without_the_steps(scored, tmp_path, whole):
    predictions.keep(scored, tmp_path / "kept.parquet", whole)
    before, after = pq.read_table(scored), pq.read_table(tmp_path / "kept.parquet")
    assert after.schema.equals(before.schema, check_metadata=True)
    for name in before.schema.names:
        if name in predictions.ALONG_THE_DENOISING and not whole:
            assert after[name].null_count == len(after)
        else:
            assert after[name].equals(before[name])
