"""A submission of any solver: what is written, what is read back, scored and refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.common.stage import StageError
from tasks.files import submission

TESTS = {"a": 1, "b": 2}
EMPTY = {"attempt_1": [[0]], "attempt_2": [[0]]}


def grid(*rows: Any) -> Any:
    return np.array(rows, dtype=np.uint8)


WHOLE: dict[str, Any] = {
    "a": [{"attempt_1": [[1, 2]], "attempt_2": [[3]]}],
    "b": [{"attempt_1": [[4], [5]], "attempt_2": []}, {"attempt_1": [], "attempt_2": [[6]]}],
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("new/submission.json")


def test_a_single_attempt_is_written_twice_and_none_as_a_black_cell(file: Path) -> None:
    attempts = {("a", 0): [grid([1, 2]), grid([3]), grid([7])], ("b", 1): [np.zeros((0, 0), dtype=np.uint8)]}
    contents = submission.submission(TESTS, attempts)
    assert contents == {"a": [{"attempt_1": [[1, 2]], "attempt_2": [[7]]}], "b": [EMPTY, EMPTY]}
    single = submission.submission({"a": 1}, {("a", 0): [grid([1, 2])]})
    assert single == {"a": [{"attempt_1": [[1, 2]], "attempt_2": [[1, 2]]}]}
    submission.write(file, contents)
    submission.write(file, contents)
    assert file.read_text() == json.dumps(contents).replace(" ", "")


def test_what_is_written_is_read_as_grids(file: Path) -> None:
    submission.write(file, WHOLE)
    found = submission.read(file, TESTS)
    assert {key: [g.tolist() for g in grids] for key, grids in found.items()} == {
        ("a", 0): [[[1, 2]], [[3]]],
        ("b", 0): [[[4], [5]], []],
        ("b", 1): [[], [[6]]],
    }


def changed(**entries: Any) -> dict[str, Any]:
    return WHOLE | entries


NAMES = [f"x{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (None, "submission.json cannot be read: No such file or directory"),
        ("{", "; write the submission again"),
        ([1] * 30, f": expected an object of tasks by id, found {str([1] * 30)[:40]}"),
        ({"b": []}, " lacks 1 of 2 tasks: a; it must answer each"),
        ({}, " lacks 2 of 2 tasks: a, b; it must answer each"),
        (changed(**dict.fromkeys(NAMES[:5])), " answers unknown 5 of 2 tasks: x0, x1, x2, x3, x4; it must answer each"),
        (
            changed(**dict.fromkeys(NAMES)),
            " answers unknown 6 of 2 tasks: x0, x1, x2, x3, x4, ...; it must answer each",
        ),
        (changed(b={}), ": task b must be a list of 2, one entry a test input"),
        (changed(b=WHOLE["b"][:1]), ": task b must be a list of 2, one entry a test input"),
        (changed(b=[*WHOLE["b"], EMPTY]), ": task b must be a list of 2, one entry a test input"),
        (changed(b=[EMPTY, 3]), ": task b, test 1 must have 'attempt_1' and 'attempt_2', nothing else"),
        (changed(b=[{"attempt_1": [[1]]}, 3]), ": task b, test 0 must have 'attempt_1' and 'attempt_2', nothing else"),
        (changed(a=[EMPTY | {"x": 1}]), ": task a, test 0 must have 'attempt_1' and 'attempt_2', nothing else"),
    ],
)
def test_what_is_no_submission_of_these_tasks_is_refused(file: Path, contents: Any, says: str) -> None:
    if contents is not None:
        submission.write(file, contents)
    if isinstance(contents, str):
        file.write_text(contents)
    with pytest.raises(StageError) as refused:
        submission.read(file, TESTS)
    assert str(refused.value).startswith(str(file))
    assert str(refused.value).endswith(says)


def test_a_wrong_grid_is_named(file: Path) -> None:
    submission.write(file, changed(b=[EMPTY, {"attempt_1": [[1]], "attempt_2": [[10]]}]))
    with pytest.raises(StageError, match=r"^new/submission\.json: task b, test 1, attempt_2.*10"):
        submission.read(file, TESTS)


def test_the_command_scores_each_test_input_by_its_better_attempt(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    solutions = {"a": [grid([3])], "b": [grid([4], [5]), grid([7])], "c": [grid([1])], "d": [grid([2])]}
    asked: list[str] = []
    monkeypatch.setattr(submission, "read_solutions", lambda split: asked.append(split) or solutions)
    submission.write(file, WHOLE | {"c": [EMPTY], "d": [EMPTY]})
    submission.main(file)
    assert asked == ["evaluation"]
    # a is solved, b by half: 1.5 of 4 tasks; a resample of the four is 0 to 100 %.
    printed = capsys.readouterr().out
    assert printed.startswith("new/submission.json: pass@2 37.5 % [0.0–")
    assert printed.endswith("], 2 of 5 grids, 4 tasks\n")
