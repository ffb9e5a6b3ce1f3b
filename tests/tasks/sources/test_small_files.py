"""Lists of tasks, official files and folders of extra tasks with something wrong, and which tasks are kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.config.data import OfficialEvaluation
from model.puzzles import grids
from model.puzzles.grids import GridError
from tasks.common import paths
from tasks.common.stage import StageError
from tasks.sources import arckit_tasks, extra_sources, official_evaluation, selection
from tests.conftest import experiment


@pytest.fixture(autouse=True)
def _workspace(workspace: Path) -> None:
    paths.OWN.mkdir(parents=True)
    paths.RAW.mkdir(parents=True)


def task(name: str, width: int, test: int = 1) -> Any:
    pair = {"input": [[1] * width], "output": [[2]]}
    return grids.task(name, {"train": [pair], "test": [{"input": [[3] * test]}]})


TASKS = {name: task(name, width) for name, width in (("d", 3), ("b", 1), ("a", 3), ("c", 6), ("e", 7))}
ANSWERS = {name: [np.zeros((2, 2 if name != "b" else 7), dtype=np.uint8)] for name in TASKS}


def kept(split: str, **changes: Any) -> list[str]:
    return list(selection.keep(TASKS, ANSWERS, experiment(prepare=changes).prepare, split))


def test_sides_up_to_the_largest_are_kept_and_answers_of_evaluation_tasks_are_not_looked_at() -> None:
    assert kept("evaluation") == ["a", "b", "c", "d"]
    assert kept("training") == ["a", "c", "d"], "b's answer is 7 wide"
    with pytest.raises(StageError, match=r"^no training task has all sides up to 1 \(prepare\.largest_side\)$"):
        kept("training", largest_side=1)


def test_the_shortest_are_those_of_the_fewest_cells_then_the_first() -> None:
    # Cells: an input, its output of one, and a test input of one.
    for count, names in ((1, ["b"]), (2, ["a", "b"]), (3, ["a", "b", "d"]), (9, ["a", "b", "c", "d"])):
        assert kept("evaluation", evaluation_subset=f"shortest-{count}", training_subset="x") == names


def test_a_list_names_the_tasks_of_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    paths.subset("training").write_text("c a\n")
    assert kept("training", training_subset="mine", evaluation_subset="") == ["a", "c"]
    assert kept("evaluation", training_subset="mine", evaluation_subset="") == ["a", "b", "c", "d"]
    known = {("training", "challenges"): {"a": 1}, ("evaluation", "challenges"): {"d": 1}}
    monkeypatch.setattr(arckit_tasks, "from_arckit", lambda edition: known if edition == "arcagi" else {})
    assert kept("evaluation", evaluation_subset="not-in-arc-agi-1") == ["b", "c"]


def test_a_list_that_cannot_be_read_or_names_other_tasks_is_refused() -> None:
    file = paths.subset("training")
    says = f"{file}, the subset 'mine', cannot be read: "
    for contents in (None, b"\xff\xfe"):
        if contents:
            file.write_bytes(contents)
        with pytest.raises(StageError) as refused:
            kept("training", training_subset="mine")
        assert str(refused.value).startswith(says)
        assert str(refused.value).endswith("; run the stage fetch")
    file.write_text(" ".join(["a", *(f"{i}" * 50 for i in (6, 5, 4, 3, 2, 1))]))
    with pytest.raises(StageError) as refused:
        kept("training", training_subset="mine")
    named = ", ".join(repr(f"{i}" * 40) for i in (1, 2, 3, 4, 5))
    assert str(refused.value) == f"the list 'mine' names 6 tasks that the set lacks: {named}"


@pytest.mark.parametrize(
    ("subset", "file"),
    [("", None), ("not-in-arc-agi-1", None), ("shortest-5", None), ("shortest-0", "shortest-0"), ("mine", "mine")],
)
def test_which_lists_are_files_of_ones_own(subset: str, file: str | None) -> None:
    assert selection.named_file(subset) == file


def test_official_files_have_their_digests() -> None:
    config = {}
    for kind in ("challenges", "solutions"):
        path = paths.OWN / f"arc-agi_evaluation_{kind}.json"
        path.write_text(kind)
        config[kind] = hashlib.sha256(kind.encode()).hexdigest()
    wanted = OfficialEvaluation.model_validate(config)
    assert official_evaluation.checked(wanted) == {
        kind: paths.OWN / f"arc-agi_evaluation_{kind}.json" for kind in ("challenges", "solutions")
    }
    path = paths.OWN / "arc-agi_evaluation_solutions.json"
    path.write_text("other")
    with pytest.raises(StageError) as refused:
        official_evaluation.checked(wanted)
    assert str(refused.value) == (
        f"{path} has SHA-256 {hashlib.sha256(b'other').hexdigest()}, but fetch.official_evaluation.solutions is "
        f"{config['solutions']}; copy that file there, or change the setting if yours is meant"
    )
    path.unlink()
    with pytest.raises(StageError) as refused:
        official_evaluation.checked(wanted)
    assert str(refused.value) == (
        f"{path} cannot be read: No such file or directory; copy ARC Prize's ARC-AGI-2 evaluation solutions there "
        f"(SHA-256 {config['solutions']}), or use the data set aa2"
    )


SOLVED = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]], "output": [[4, 5]]}]}


def test_the_training_tasks_of_arc_agi_2_that_arc_agi_1_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"train": SOLVED["train"], "test": [{"input": [[3]]}]}
    one = {("training", "challenges"): {"a": asked}, ("evaluation", "challenges"): {"b": asked}}
    names = ("a", "b", "c", "d")
    two = {
        ("training", "challenges"): dict.fromkeys(names, asked),
        ("training", "solutions"): {name: [[[4, 5]]] for name in names},
    }
    monkeypatch.setattr(arckit_tasks, "from_arckit", lambda edition: {"arcagi": one, "arcagi2": two}[edition])
    assert extra_sources.tasks_of("arc-agi-2") == {"c": SOLVED, "d": SOLVED}


def test_a_folder_holds_official_files_or_one_task_each() -> None:
    folder = paths.OWN / "more" / "deep"
    folder.mkdir(parents=True)
    asked = {"train": SOLVED["train"], "test": [{"input": [[3]]}]}
    (folder / "x_challenges.json").write_text(json.dumps({"p": asked, "q": asked}))
    (folder / "x_solutions.json").write_text(json.dumps({"p": [[[4, 5]]], "q": [[[4, 5]]]}))
    (folder / "r.json").write_text(json.dumps(SOLVED))
    assert extra_sources.tasks_of("more") == dict.fromkeys("pqr", SOLVED)
    (folder.parent / "q.json").write_text(json.dumps(SOLVED))
    says = r"task q is in another file of data/own/more too; every id must be unique$"
    with pytest.raises(GridError, match=says):
        extra_sources.tasks_of("more")
    (folder.parent / "q.json").unlink()
    for wrong in ({"p": [[[4, 5]]]}, {"p": [[[4, 5]]], "q": [[[4]], [[5]]]}, {"p": [[[4, 5]]], "q": 3}):
        (folder / "x_solutions.json").write_text(json.dumps(wrong))
        with pytest.raises(GridError) as refused:
            extra_sources.tasks_of("more")
        assert str(refused.value) == (
            f"{folder / 'x_solutions.json'}: task q: there must be one output for each test input"
        )
    (folder / "x_solutions.json").write_text(json.dumps({"p": [[[4, 5]]], "q": [[[4, 5]]]}))
    for number in (1, "input", None):
        (folder / "x_challenges.json").write_text(json.dumps({"p": asked, "q": {**asked, "test": [number]}}))
        with pytest.raises(
            GridError, match=r"x_challenges\.json: task q: expected an object with 'test', a list of pairs"
        ):
            extra_sources.tasks_of("more")
    (empty := paths.OWN / "none").mkdir()
    with pytest.raises(StageError) as missing:
        extra_sources.tasks_of("none")
    assert str(missing.value) == f"fetch.extra names 'none', but {empty} has no JSON files; see data/own/README.md"
