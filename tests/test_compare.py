"""Comparisons against sums by hand, of results that lie in files, in folders and in an MLflow store."""

import csv
import json

import numpy as np
import pytest
import yaml

from model.statistics import bootstrap_interval, paired_difference
from tasks import compare as command
from tasks import paths, tracking
from tasks.comparison import NO_DIFFERENCE, compare
from tasks.publish import flat
from tasks.stage import StageError
from tasks.store import store
from tests.conftest import experiment

TASKS = [f"{i:08x}" for i in range(120)]
DIFFICULTY = np.random.default_rng(0).beta(0.3, 1.0, 120)


def _score(seed, lift=0.0, tasks=TASKS, name="v3/tiny/aa1", **marks):
    """A score whose tasks are solved by chance; every fourth has two test grids."""
    draws = np.random.default_rng(seed)
    results = {}
    for task in tasks:
        chance = DIFFICULTY[TASKS.index(task)] * (1 - lift) + lift
        grids = []
        for _ in range(1 + (TASKS.index(task) % 4 == 0)):
            solved = bool(draws.random() < chance)
            grids.append(
                {
                    "solved": solved,
                    "attempt_1": solved and bool(draws.random() < 0.8),
                    "attempt_2": False,
                    "any_view": solved or bool(draws.random() < 0.2),
                    "votes_for_the_answer": 0,
                    "views": 8,
                    "size": True,
                    "missing": False,
                }
            )
        results[task] = grids
    return {
        "tasks": results,
        "checkpoint": "best",
        "pass_at_2": float(np.mean([np.mean([g["solved"] for g in gs]) for gs in results.values()])),
        "selected_on_the_reported_set": marks.get("selected", False),
        "source": {"experiment": name, "seed": 0, "leaks": marks.get("leaks", 0), "evaluation_name": "votes"},
    }


def _folder(root, score, **changes):
    """A worktree with this score, whose experiment has these changes."""
    config = experiment(dataset="aa1", **changes)
    score["source"] |= {
        "experiment": config.name,
        "seed": config.seed,
        "evaluation": config.evaluations["votes"].model_dump(mode="json"),
    }
    (root / "data/scores").mkdir(parents=True)
    (root / paths.EXPERIMENT).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (root / paths.score("best", "votes")).write_text(json.dumps(score))
    return str(root)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A base, a better one with another learning rate, and another seed of each."""
    monkeypatch.chdir(tmp_path)
    return [
        _folder(tmp_path / "a0", _score(1)),
        _folder(tmp_path / "b0", _score(2, 0.25), train={"learning_rate": 1e-3}),
        _folder(tmp_path / "a1", _score(3), seed=1),
        _folder(tmp_path / "b1", _score(4, 0.25), train={"learning_rate": 1e-3}, seed=1),
    ]


def _values(score, tasks=TASKS):
    return np.array([sum(g["solved"] for g in score["tasks"][t]) / len(score["tasks"][t]) for t in tasks])


def test_two_experiments_by_hand(folders):
    found = compare(folders[:2], resamples=2000)
    a, b = (_values(score) for score in (_score(1), _score(2, 0.25)))
    assert [row.pass_at_2 for row in found.rows] == pytest.approx([a.mean(), b.mean()])
    assert (found.rows[0].low, found.rows[0].high) == bootstrap_interval(a, 2000)
    assert (found.rows[0].n_tasks, found.rows[0].n_grids) == (120, 150)
    assert found.rows[1].strict == pytest.approx((b == 1).mean())
    (pair,) = found.pairs
    by_hand = paired_difference(a, b, 2000)
    assert (pair.difference, pair.low, pair.high, pair.p) == by_hand
    assert pair.p_holm == pair.p
    assert pair.won == tuple(t for t, x, y in zip(TASKS, a, b, strict=True) if y > x)
    assert pair.lost == tuple(t for t, x, y in zip(TASKS, a, b, strict=True) if y < x)
    assert pair.factors == (("train.learning_rate", "0.002", "0.001"),)
    assert (pair.shown, pair.verdict) == (True, "B higher")
    assert [row.label for row in found.rows] == ["v3/tiny/aa1", "v3/tiny/aa1 (learning_rate=0.001)"]
    assert any("one seed" in note for note in found.notes)


def test_the_other_way_round_is_the_same_with_other_signs(folders):
    ahead, back = (compare(names, resamples=4000).pairs[0] for names in (folders[:2], folders[1::-1]))
    assert back.difference == pytest.approx(-ahead.difference)
    assert (back.low, back.high) == pytest.approx((-ahead.high, -ahead.low), abs=0.01)
    assert (back.won, back.lost, back.verdict) == (ahead.lost, ahead.won, "B lower")


def test_what_lies_within_the_interval_is_not_ranked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [_folder(tmp_path / f"e{i}", _score(20 + i), train={"batch": 8 + i}) for i in range(7)]
    found = compare(names, resamples=2000)
    assert [row.label for row in found.rows] == ["v3/tiny/aa1", *(f"v3/tiny/aa1 (batch={8 + i})" for i in range(1, 7))]
    assert len(found.pairs) == 21
    for pair in found.pairs:
        assert pair.shown == ((pair.low > 0 or pair.high < 0) and pair.p <= 0.05)
        assert (pair.verdict == NO_DIFFERENCE) == (not pair.shown)
        assert pair.p <= pair.p_holm <= 1
    # One recipe seven times: chance alone may show single pairs, but none after correction.
    assert all("not after correction" in pair.verdict for pair in found.pairs if pair.shown)


def test_seeds_are_pooled_over_the_same_tasks(folders):
    found = compare(folders, resamples=2000)
    assert [row.seeds for row in found.rows] == [(0, 1), (0, 1)]
    a = np.stack([_values(_score(1)), _values(_score(3))])
    b = np.stack([_values(_score(2, 0.25)), _values(_score(4, 0.25))])
    assert found.rows[0].n_tasks == 120
    assert found.rows[0].pass_at_2 == pytest.approx(a.mean())
    assert found.rows[1].seed_scores == pytest.approx(tuple(b.mean(1)))
    assert tuple(found.pairs[0])[2:6] == tuple(paired_difference(a, b, 2000))
    assert found.notes == []
    apart = compare(folders, apart=True, resamples=200)
    assert [row.seeds for row in apart.rows] == [(0,), (0,), (1,), (1,)]
    assert len({row.label for row in apart.rows}) == 4
    assert len(apart.pairs) == 6


def test_the_same_seed_again_is_no_other_seed(folders, tmp_path):
    """Two worktrees with the same parameters and seed, but other code: they stand side by side."""
    other = _folder(tmp_path / "changed", _score(5))
    found = compare([folders[0], other], resamples=200)
    assert [row.seeds for row in found.rows] == [(0,), (0,)]
    assert [row.label for row in found.rows] == [f"v3/tiny/aa1 ({folders[0]})", f"v3/tiny/aa1 ({other})"]
    assert found.pairs[0].factors == ()
    assert len(compare([folders[0], folders[0]], resamples=200).rows) == 1


def test_other_task_sets_are_refused_unless_the_shared_ones_are_asked_for(folders, tmp_path):
    fewer = _folder(tmp_path / "fewer", _score(6, tasks=TASKS[:50]), train={"batch": 4})
    with pytest.raises(StageError, match=r"over other tasks .*: 120, .*: 50; 50 shared.*--common"):
        compare([folders[0], folders[1], fewer])
    found = compare([folders[0], folders[1], fewer], common=True, resamples=200)
    assert {row.n_tasks for row in found.rows} == {50}
    assert found.rows[0].pass_at_2 == pytest.approx(_values(_score(1), TASKS[:50]).mean())
    assert any("over the 50 shared tasks only" in note for note in found.notes)
    none = _folder(tmp_path / "none", _score(7, tasks=TASKS[60:]), train={"batch": 5})
    with pytest.raises(StageError, match="share no task"):
        compare([fewer, none], common=True)


def test_a_task_with_another_number_of_test_grids_is_another_task(folders, tmp_path):
    score = _score(8)
    score["tasks"][TASKS[1]] *= 2
    other = _folder(tmp_path / "other", score, train={"batch": 4})
    with pytest.raises(StageError, match="119 shared"):
        compare([folders[0], other])


def test_a_score_file_alone_compares_without_factors(folders, tmp_path):
    path = tmp_path / "best-votes.json"
    path.write_text((tmp_path / "b0" / paths.score("best", "votes")).read_text())
    found = compare([folders[0], str(path)], resamples=200)
    assert found.pairs[0].factors is None
    inside = compare([folders[0], str(tmp_path / "b0" / paths.score("best", "votes"))], resamples=200)
    assert inside.pairs[0].factors == (("train.learning_rate", "0.002", "0.001"),)
    assert inside.pairs[0][2:6] == found.pairs[0][2:6]


def test_marks_stand_beside_the_numbers(folders, tmp_path, capsys):
    marked = _folder(tmp_path / "marked", _score(9, selected=True, leaks=376), train={"batch": 4})
    assert compare([folders[0], marked], resamples=200).rows[1].marks == (
        "selected on the reported set",
        "trained on evaluated pairs (376)",
    )
    _main([folders[0], marked])
    shown = capsys.readouterr().out
    assert "selected on the reported set" in shown
    assert "trained on evaluated pairs (376)" in shown


def test_the_cost_is_that_of_the_folders_own_training(folders, tmp_path, monkeypatch):
    """The timing lies in scratch under a key of the tables; a folder without either costs '?'."""
    from tasks import cost

    root = tmp_path / "a0"
    (root / paths.PREPARED).mkdir()
    (root / paths.AUGMENTED).mkdir()
    for table in (paths.CELLS, paths.PAIRS, paths.TASKS, paths.TRAINING_VIEWS):
        (root / table).write_text("x")
    monkeypatch.chdir(root)
    cost.add(experiment(dataset="aa1"), 90.0, "H200")
    monkeypatch.chdir(tmp_path)
    rows = compare(folders[:2], resamples=200).rows
    assert (rows[0].minutes, rows[0].device) == (1.5, "H200")
    assert (rows[1].minutes, rows[1].device) == (None, "")


def _main(names, **changes):
    values = {"checkpoint": "best", "evaluation": "votes", "common": False, "apart": False, "csv_file": None}
    command.main(**(values | {"names": names, "html": None} | changes))


def test_csv_and_page_hold_the_same_as_the_terminal(folders, tmp_path, capsys):
    _main(folders, csv_file=tmp_path / "out.csv", html=tmp_path / "out.html")
    shown, found = capsys.readouterr().out, compare(folders)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "out-pairs.csv").open() as file:
        (pair,) = csv.DictReader(file)
    assert [float(row["pass_at_2"]) for row in rows] == [row.pass_at_2 for row in found.rows]
    assert rows[0]["seeds"] == "0; 1"
    assert float(pair["p"]) == found.pairs[0].p
    assert pair["won"].split("; ") == list(found.pairs[0].won)
    assert pair["factors"] == "train.learning_rate 0.002 0.001"
    page = (tmp_path / "out.html").read_text()
    assert "http" not in page
    for text in (found.pairs[0].verdict, found.pairs[0].won[0], f"{100 * found.pairs[0].difference:+.1f}"):
        assert text in shown
        assert text in page
    with pytest.raises(SystemExit, match="there is no folder"):
        _main(folders, csv_file=tmp_path / "nowhere" / "out.csv")


def test_seven_experiments_fit_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    _main([_folder(tmp_path / f"e{i}", _score(20 + i, 0.05 * i), train={"batch": 8 + i}) for i in range(7)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 110
    assert len(shown.splitlines()) < 120
    assert all(f"{a} → {b}" in shown for a, b in ("AB", "AG", "FG"))
    assert "train.batch 8 → 9" in " ".join(shown.split())
    assert "The other 15 pairs' tasks and factors" in shown


def test_a_narrow_terminal_still_shows_every_number(folders, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    _main(folders)
    shown = capsys.readouterr().out
    assert "…" not in shown
    for row in compare(folders).rows:
        for share in (row.pass_at_1, row.pass_at_2, row.low, row.high, row.strict, row.oracle, *row.seed_scores):
            assert f"{100 * share:.1f}" in shown


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_text("{"), "cannot be read"),
        (lambda path: path.write_text("[]"), "is no score: it lacks"),
        (lambda path: path.write_text('{"tasks": {}}'), "is no score: it lacks"),
        (lambda path: path.unlink(), "is missing; .* has no scores"),
    ],
)
def test_a_score_that_is_none(folders, change, says, tmp_path):
    change(tmp_path / "b0" / paths.score("best", "votes"))
    with pytest.raises(StageError, match=says):
        compare(folders[:2])


def test_a_score_of_another_experiment_than_lies_beside_it(folders, tmp_path):
    path = tmp_path / "b0" / paths.EXPERIMENT
    path.write_text(yaml.safe_dump(experiment(dataset="aa1", seed=9).model_dump(mode="json")))
    with pytest.raises(StageError, match=r"is of v3/tiny/aa1 seed 0, but .* is of v3/tiny/aa1 seed 9"):
        compare(folders[:2])


def test_a_folder_of_an_older_commit_still_compares(folders, tmp_path):
    """Its parameters lack what has been added since; that is a factor."""
    path = tmp_path / "b0" / paths.EXPERIMENT
    values = yaml.safe_load(path.read_text())
    del values["train"]["optimizer"]
    path.write_text(yaml.safe_dump(values))
    factors = compare(folders[:2], resamples=200).pairs[0].factors
    assert factors == (("train.learning_rate", "0.002", "0.001"), ("train.optimizer", "adamw", "-"))


def test_a_name_that_is_nothing(folders):
    with pytest.raises(StageError, match="is no score file, no folder and no experiment"):
        compare([folders[0], "nothing"])
    with pytest.raises(StageError, match=r"the MLflow store .* is empty"):
        compare([folders[0], "v9/smol/aa1"])


def _publish(tmp_path, score, key, **changes):
    """What tasks.publish puts there of it, by the same writer: the run of a training, and one of an evaluation."""
    config = experiment(dataset="aa1", **changes)
    score["source"] |= {
        "experiment": config.name,
        "seed": config.seed,
        "evaluation": config.evaluations["votes"].model_dump(mode="json"),
    }
    file = tmp_path / f"{key}.json"
    file.write_text(json.dumps(score))
    tags = {"arc.experiment": config.name, "arc.seed": str(config.seed)}
    tags |= {"mlflow.source.git.commit": "0123456789abcdef" if config.seed else "fedcba9876543210"}
    parameters = flat(config.model_dump(mode="json"))
    points = [tracking.Point("cost/training_seconds", 120.0, 12)]
    training = tracking.Record(config.name, tags | {"arc.device": "H200"}, parameters, points, {})
    named = tags | {"arc.checkpoint": "best", "arc.evaluation": "votes"}
    evaluation = tracking.Record(f"{config.name} best-votes", named, {}, [], {"score.json": file})
    model = tracking.Model("model", 12, {}, {})
    data = tracking.Data("aa1", "0" * 32, "{}", "{}")
    result = tracking.Result("arc-diffusion", training, {"best": model}, [("best", evaluation)], data)
    assert tracking.publish(store(), key, lambda: result)


@pytest.mark.slow
def test_names_in_mlflow(folders, tmp_path):
    _publish(tmp_path, _score(1), "aaa0")
    _publish(tmp_path, _score(3), "aaa1", seed=1)
    _publish(tmp_path, _score(2, 0.25), "bbb0", train={"learning_rate": 1e-3}, size="smol")
    _publish(tmp_path, _score(4, 0.25), "bbb1", train={"learning_rate": 1e-3}, size="smol", seed=1)
    found = compare(["v3/tiny/aa1", "v3/smol/aa1"], resamples=2000)
    assert [(row.label, row.seeds) for row in found.rows] == [("v3/tiny/aa1", (0, 1)), ("v3/smol/aa1", (0, 1))]
    of_folders = compare(folders, resamples=2000)
    assert [row[4:15] for row in found.rows] == [row[4:15] for row in of_folders.rows]
    assert found.pairs[0][2:8] == of_folders.pairs[0][2:8]
    assert (found.rows[0].minutes, found.rows[0].device) == (4.0, "H200")
    assert ("train.learning_rate", "0.002", "0.001") in found.pairs[0].factors
    # A worktree against a name; one result of a name by its key.
    mixed = compare([folders[0], "v3/smol/aa1@bbb1"], resamples=200)
    assert [row.seeds for row in mixed.rows] == [(0,), (1,)]

    # Another setting under the same name is another experiment; the same seed again counts once, the newest.
    _publish(tmp_path, _score(10), "ccc0", train={"batch": 4})
    several = compare(["v3/tiny/aa1"], resamples=200)
    assert sorted(row.seeds for row in several.rows) == [(0,), (0, 1)]
    assert {row.label for row in several.rows} == {"v3/tiny/aa1", "v3/tiny/aa1 (batch=8)"}
    _publish(tmp_path, _score(11), "ddd0", train={"batch": 4})
    again = compare(["v3/tiny/aa1"], resamples=200)
    assert again.notes[0] == "v3/tiny/aa1 has several results of seed 0; the newest counts"
    newest = next(row for row in again.rows if len(row.seeds) == 1)
    assert newest.pass_at_2 == pytest.approx(_values(_score(11)).mean())

    with pytest.raises(
        StageError, match=r"v9/tiny/aa1 is neither a path nor in .*; there are v3/smol/aa1, v3/tiny/aa1"
    ):
        compare(["v9/tiny/aa1"])
    with pytest.raises(StageError, match="has no final-votes in MLflow; it has best-votes"):
        compare(["v3/smol/aa1"], checkpoint="final")
