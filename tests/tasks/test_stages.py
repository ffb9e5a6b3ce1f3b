"""fetch, prepare and augment on good and bad tasks."""

import copy
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.puzzles import grids
from model.puzzles.symmetry import colour_cycle, view_of
from tasks import augment, fetch, prepare
from tasks.common import paths
from tasks.files import tables
from tasks.sources import arckit_tasks
from tests.conftest import experiment, puzzles

TRAIN, SOLVED = "arc-agi_training_challenges.json", "arc-agi_training_solutions.json"


def _set(files, path, value):
    *parents, last = path
    target = files
    for part in parents:
        target = target[part]
    target[last] = value
    return files


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            (TRAIN, "aaaaaaaa", "train", 1, "output"),
            [[1, 2], [3]],
            r"train pair 1, output: row 1 has 1 cells but row 0",
        ),
        ((TRAIN, "aaaaaaaa", "train", 0, "input", 0, 1), 10, r"train pair 0, input: row 0, column 1 is 10"),
        ((TRAIN, "aaaaaaaa", "train", 0, "input", 0, 1), -1, r"column 1 is -1; a colour is an integer from 0 to 9"),
        ((TRAIN, "aaaaaaaa", "train", 0, "input", 0, 1), "3", r"column 1 is '3'"),
        ((TRAIN, "aaaaaaaa", "train", 0, "input", 0, 1), True, r"column 1 is True"),
        ((TRAIN, "aaaaaaaa", "train", 0, "input", 0, 1), 3.0, r"column 1 is 3.0"),
        (
            (TRAIN, "aaaaaaaa", "train", 0, "input"),
            [],
            r"train pair 0, input: expected a list of 1 to 30 rows, found \[\]",
        ),
        ((TRAIN, "aaaaaaaa", "train", 0, "input"), [[]], r"row 0 is \[\]"),
        ((TRAIN, "aaaaaaaa", "train", 0, "input"), [[0] * 31] * 31, r"31 rows; at most 30"),
        ((TRAIN, "aaaaaaaa", "train", 0, "input"), [[0] * 31], r"row 0 has 31 cells; at most 30"),
        ((TRAIN, "aaaaaaaa", "test"), [], r"task aaaaaaaa: no test pair"),
        ((TRAIN, "aaaaaaaa", "train"), [], r"task aaaaaaaa: no train pair"),
        ((TRAIN, "aaaaaaaa", "test"), None, r"task aaaaaaaa: 'test' is None"),
        ((TRAIN, "aaaaaaaa", "train", 0), {"input": [[1]]}, r"train pair 0: has no 'output'"),
        ((TRAIN, "aaaaaaaa", "test", 0), {"input": [[1]], "output": [[1]]}, r"test input 0: has an 'output'"),
        ((TRAIN,), '{"aaaaaaaa": {', r"broken JSON"),
        ((TRAIN,), '{"aaaaaaaa": {}, "aaaaaaaa": {}}', r"'aaaaaaaa' occurs twice"),
        ((TRAIN,), "[]", r"expected an object of tasks"),
        ((SOLVED, "aaaaaaaa"), [], r"task aaaaaaaa: 0 grids for 1 test inputs"),
        ((SOLVED,), {"aaaaaaaa": [[[1]]]}, r"tasks differ from those of .*: bbbbbbbb"),
        ((TRAIN, "cccccccc"), puzzles()[TRAIN]["aaaaaaaa"], r"cccccccc"),
    ],
)
def test_a_bad_task_ends_with_its_file_task_and_fault(raw, path, value, says):
    raw(_set(puzzles(), path, value))
    with pytest.raises(SystemExit) as caught:
        prepare.main()
    assert re.search(says, str(caught.value)), caught.value
    assert path[0] in str(caught.value)
    assert not list(paths.PREPARED.glob("*"))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text(max_size=2),
    lambda c: st.lists(c, max_size=4),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(JUNK)
def test_a_random_value_is_a_grid_or_is_refused_with_its_place(value):
    """Against a definition written the other way round: numpy must agree that it is a small matrix of colours."""
    try:
        result = grids.grid(value, "here")
    except grids.GridError as error:
        assert str(error).startswith("here")
        rows = isinstance(value, list) and 1 <= len(value) <= 30 and all(isinstance(r, list) and r for r in value)
        rows = rows and len({len(r) for r in value}) == 1 and len(value[0]) <= 30
        assert not (rows and all(type(c) is int and c in range(10) for r in value for c in r))
    else:
        assert result.tolist() == value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_task_damaged_anywhere_is_never_prepared_as_something_else(data):
    task = copy.deepcopy(puzzles()[TRAIN]["bbbbbbbb"])
    target = data.draw(st.sampled_from([task["train"], task["test"], task["train"][0], task["test"][0], task]))
    key = data.draw(st.sampled_from(range(len(target)) if isinstance(target, list) else sorted(target)))
    target[key] = data.draw(JUNK)
    try:
        good = grids.task("bbbbbbbb", task)
    except grids.GridError as error:
        assert "bbbbbbbb" in str(error)
    else:
        assert [p.input.tolist() for p in good.train] == [p["input"] for p in task["train"]]


def test_prepare_splits_packs_and_hides_solutions(raw):
    files = puzzles()
    raw(files)
    prepare.main()
    table = pd.read_parquet(paths.PAIRS)
    cells = np.load(paths.CELLS)
    names = [task["name"] for task in tables.read_tasks()]
    assert names == ["aaaaaaaa", "bbbbbbbb", "cccccccc"]
    # With two training tasks both are held out for validation, so no test pair is trained on.
    assert table["split"].value_counts().to_dict() == {"train": 5, "validation": 3, "evaluation": 1}
    for row in table.itertuples():
        source = files["arc-agi_evaluation_challenges.json" if row.task == 2 else TRAIN][names[row.task]]
        pair = source["train" if row.split == "train" else "test"][row.number]
        got = cells[row.input_offset :][: row.input_height * row.input_width].reshape(row.input_height, row.input_width)
        assert got.tolist() == pair["input"]
        assert (row.output_offset >= 0) == (row.split == "train")
        if row.split == "train":
            got = cells[row.output_offset :][: row.output_height * row.output_width]
            assert got.reshape(row.output_height, row.output_width).tolist() == pair["output"]
    assert sum(table["input_height"] * table["input_width"] + table["output_height"] * table["output_width"]) == len(
        cells
    )
    assert tables.read_solutions("evaluation")["cccccccc"][0].tolist() == [[0, 8, 6], [0, 0, 7]]
    assert set(tables.read_solutions("validation")) == {"aaaaaaaa", "bbbbbbbb"}


def test_the_labs_validation_is_of_evaluation_tasks_and_holds_out_no_training_task(raw):
    raw(puzzles())
    config = experiment(prepare={"validation": "evaluation-solutions"})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    prepare.main()
    table = pd.read_parquet(paths.PAIRS)
    # Both test pairs of bbbbbbbb and the one of aaaaaaaa are trained on now; the evaluated pair is not.
    assert table["split"].value_counts().to_dict() == {"train": 8, "validation": 1, "evaluation": 1, "training": 3}
    assert set(table[table["split"].isin(["validation", "evaluation"])]["task"]) == {2}
    assert set(table[table["split"] == "training"]["task"]) == {0, 1}
    assert (table[table["split"] != "train"]["output_offset"] == -1).all()
    assert paths.VALIDATION_SOLUTIONS.read_text() == paths.EVALUATION_SOLUTIONS.read_text()


def test_an_evaluated_pair_of_another_task_is_found_under_a_view_and_left_out(raw):
    files = puzzles()
    evaluated = np.array(files["arc-agi_evaluation_challenges.json"]["cccccccc"]["test"][0]["input"], dtype=np.uint8)
    answer = np.array(files["arc-agi_evaluation_solutions.json"]["cccccccc"][0], dtype=np.uint8)
    leak = {
        "input": view_of(3, colour_cycle(4), evaluated).tolist(),
        "output": view_of(3, colour_cycle(4), answer).tolist(),
    }
    files[TRAIN]["bbbbbbbb"]["train"].append(leak)
    raw(files)
    prepare.main()
    report = json.loads(paths.LEAKS.read_text())
    assert report["pairs_of_other_tasks"] == [
        {"task": "cccccccc", "test": 0, "how": "under a view", "trained_as": ["bbbbbbbb", 1]}
    ]
    table = pd.read_parquet(paths.PAIRS)
    assert len(table[(table["task"] == 1) & (table["split"] == "train")]) == 1
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment(prepare={"leaks": "keep"}).model_dump(mode="json")))
    prepare.main()
    table = pd.read_parquet(paths.PAIRS)
    assert len(table[(table["task"] == 1) & (table["split"] == "train")]) == 2


def test_the_largest_side_filters_by_what_is_known(raw):
    raw(puzzles())
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment(prepare={"largest_side": 2}).model_dump(mode="json")))
    with pytest.raises(SystemExit, match="no evaluation task has all sides up to 2"):
        prepare.main()


def test_own_tasks_are_taken_as_they_are_and_missing_files_named(workspace):
    config = experiment(fetch={"source": "own"})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    paths.OWN.mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"data/own lacks arc-agi_training_challenges.json"):
        fetch.main()
    for name, contents in puzzles().items():
        (paths.OWN / name).write_text(json.dumps(contents))
    fetch.main()
    for path in Path("data/own").iterdir():
        assert (paths.RAW / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_arckit_carries_the_known_counts():
    files = arckit_tasks.from_arckit("arcagi")
    assert len(files["training", "challenges"]) == 400
    assert len(files["evaluation", "challenges"]) == 400
    assert sum(len(s) for s in files["evaluation", "solutions"].values()) == 419
    assert all("output" not in pair for task in files["evaluation", "challenges"].values() for pair in task["test"])


def test_views_are_all_72_once_with_the_identity_first(raw):
    raw(puzzles())
    prepare.main()
    augment.main()
    views = tables.read_views(paths.TRAINING_VIEWS)
    assert views.count.tolist() == [72] * 3
    for start in views.start:
        block = slice(start, start + 72)
        pairs = list(zip(views.element[block].tolist(), views.colour_cycle[block].tolist(), strict=True))
        assert pairs[0] == (0, 0)
        assert len(set(pairs)) == 72
        for cycle, colours in zip(views.colour_cycle[block], views.colours[block], strict=True):
            assert np.array_equal(colours, colour_cycle(int(cycle)))


@pytest.mark.parametrize("scheme", ["random-draws", "permutations"])
def test_random_views_depend_on_the_seed_alone(raw, scheme):
    raw(puzzles())
    prepare.main()
    tables_by_seed = {}
    for seed in (0, 0, 1):
        config = experiment(
            seed=seed,
            augment={"scheme": scheme, "training_views": 40, "evaluation_views": 40, "voting_views": 40},
            train={"network": {"conditioning": "d4"}},
        )
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        augment.main()
        written = paths.TRAINING_VIEWS.read_bytes()
        assert tables_by_seed.setdefault(seed, written) == written
    assert tables_by_seed[0] != tables_by_seed[1]
    views = tables.read_views(paths.TRAINING_VIEWS)
    assert (views.element[views.start] == 0).all()
    assert (views.colours[views.start] == np.arange(10)).all()
    assert (np.sort(views.colours, axis=1) == np.arange(10)).all()
    assert (views.colours[:, 0] == 0).all()


def test_a_subset_is_a_file_in_data_own_that_prepare_depends_on(workspace, monkeypatch):
    changes = {"fetch": {"source": "own"}, "prepare": {"training_subset": "mine.txt"}}
    paths.EXPERIMENT.write_text(yaml.safe_dump(experiment(**changes).model_dump(mode="json")))
    paths.OWN.mkdir()
    for name, contents in puzzles().items():
        (paths.OWN / name).write_text(json.dumps(contents))
    with pytest.raises(SystemExit, match=r"prepare\.training_subset is 'mine\.txt', but data/own/mine\.txt is no file"):
        fetch.main()
    for ids in (["aaaaaaaa"], ["bbbbbbbb"]):
        (paths.OWN / "mine.txt").write_text("\n".join(ids))
        fetch.main()
        assert (paths.RAW / "training_subset.txt").read_text().split() == ids
        (paths.OWN / "mine.txt").unlink()
        prepare.main()
        assert [task["name"] for task in tables.read_tasks() if task["origin"] == "training"] == ids
    (paths.RAW / "training_subset.txt").write_text("aaaaaaaa unknown")
    with pytest.raises(SystemExit, match="names 1 tasks that the set lacks: 'unknown'"):
        prepare.main()
    (paths.OWN / "mine.txt").write_bytes(b"x" * 10**6 + b"x")
    with pytest.raises(SystemExit, match="at most 1000000 are allowed"):
        fetch.main()


def test_a_fifo_or_a_link_out_of_data_own_is_refused_and_nothing_waits(workspace, monkeypatch):
    paths.OWN.mkdir(parents=True)
    (paths.OWN / "note.txt").symlink_to("/etc/passwd")
    with pytest.raises(SystemExit, match=r"fetch: data/own/note.txt is a link out of data/own"):
        fetch.main()
    (paths.OWN / "note.txt").unlink()
    os.mkfifo(paths.OWN / "note.txt")
    with pytest.raises(SystemExit, match=r"fetch: data/own/note.txt is no regular file"):
        fetch.main()


@pytest.mark.parametrize("name", ["$x^2$", "[/red]", "\ud800", "\x1b[2J", "a b", "../x", "a/b", "<b>", "x" * 65, ""])
def test_a_task_id_that_would_break_a_page_a_terminal_or_a_file_is_refused(raw, name):
    files = puzzles()
    challenges = files["arc-agi_training_challenges.json"]
    challenges[name] = challenges.pop("aaaaaaaa")
    raw(files)
    with pytest.raises(SystemExit, match=r"arc-agi_training_challenges.json: task id .* is no name") as caught:
        prepare.main()
    assert str(caught.value.code).isprintable()
