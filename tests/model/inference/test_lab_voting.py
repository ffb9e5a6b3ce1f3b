"""The lab's voting and its mistakes, by name, against small independent implementations of its rules (ledger 4, B5)."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from model.config.evaluation import Evaluation
from model.inference.predictor import Predictor
from model.inference.sizes import split_sizes_in_order
from model.puzzles.symmetry import SWAP
from model.scoring.proposals import collect_proposals
from model.scoring.scores import NOTHING, attempts_of
from model.storage import checkpoints
from tasks import predict, score
from tasks.common import paths
from tasks.files import predictions, tables
from tasks.reporting import score_table
from tests.support.oracle import INPUTS, OUTPUTS, Oracle, evaluation, packed_dataset, predictor_of
from tests.support.presets import named
from tests.support.small_experiment import build, save_checkpoint

REPEATED = {"by": "repeated-votes", "repetitions": 2, "views": 20}


def _evaluate(predictor, **changes):
    config = Evaluation.model_validate(evaluation().model_dump() | changes)
    return sorted(predictor.answer(config), key=lambda a: (a.pair, a.attempt, a.view)), config


@pytest.fixture
def untrained(workspace):
    """Predictor of random weights with 39 views, whose predicted sizes differ from view to view."""
    save_checkpoint(build())
    network, description = checkpoints.load(paths.CHECKPOINTS / "best", torch.device("cpu"))
    return Predictor(network, description, packed_dataset(views=39), ["a", "b"], 0, torch.device("cpu"))


def _labs_groups(sizes):
    """The lab's confidence split (evaluate.py at d8b90f5e): two groups of views, filled in their order."""
    ranked = Counter(sizes).most_common()
    first, count = ranked[0]
    second = ranked[1][0] if len(ranked) > 1 else first
    group_1, group_2 = [], []
    for i, size in enumerate(sizes):
        if size == first:
            group_1.append(i)
        elif size == second:
            group_2.append(i)
        elif len(group_1) < count:
            group_1.append(i)
        else:
            group_2.append(i)
    return dict.fromkeys(group_1, first) | dict.fromkeys(group_2, second)


def test_the_split_in_order_is_the_labs():
    draws = np.random.default_rng(0)
    other = 0
    for _ in range(500):
        sizes = [(int(h), 2) for h in draws.integers(1, 1 + draws.integers(1, 6), draws.integers(1, 30))]
        wanted = _labs_groups(sizes)
        assert split_sizes_in_order(sizes) == [wanted[i] for i in range(len(sizes))]
        other += len(set(sizes)) > 2
    assert other > 100
    a, b, c = (1, 2), (2, 2), (3, 2)
    assert split_sizes_in_order([c, a, b, b, a, a]) == [a, a, b, b, a, a]  # Four views at the size that three own.
    assert split_sizes_in_order([a, a, a, b, b, c]) == [a, a, a, b, b, b]


@pytest.mark.slow
def test_a_vote_by_name_splits_as_the_lab(untrained):
    own, _ = _evaluate(untrained, answers={"by": "votes", "views": 39}, sizes="own")
    split, _ = _evaluate(untrained, answers={"by": "votes", "views": 39}, sizes="split-in-order")
    for pair in (0, 1):
        wanted = _labs_groups([a.grid.shape for a in own if a.pair == pair])
        assert [a.grid.shape for a in split if a.pair == pair] == [wanted[i] for i in range(39)]


def test_with_unswapped_sizes_a_model_that_knows_the_answer_gets_36_of_72(workspace):
    """B5: the views that transpose answer with height and width exchanged; square outputs are not affected."""
    description, dataset = save_checkpoint(build()), packed_dataset()
    predictor = predictor_of(Oracle(dataset), description, dataset)
    answers, _ = _evaluate(predictor, transposed_sizes="unswapped")
    for answer in answers:
        transposes = bool(SWAP[dataset.views.element[dataset.views.start[answer.pair] + answer.view]])
        wanted = OUTPUTS[answer.pair]
        assert answer.grid.shape == (wanted.shape[::-1] if transposes else wanted.shape)
        assert np.array_equal(answer.grid, wanted) == (not transposes)
    assert sum(np.array_equal(a.grid, OUTPUTS[a.pair]) for a in answers) == 2 * 36


@pytest.mark.slow
def test_repeated_votes_have_views_and_noise_of_their_own_and_one_voted_size_each(untrained):
    own, _ = _evaluate(untrained, answers={"by": "votes", "views": 39}, sizes="own")
    found, config = _evaluate(untrained, answers=REPEATED, sizes="voted")
    assert config.views == 39
    for pair in (0, 1):
        for attempt, views in enumerate(([*range(20)], [0, *range(20, 39)])):
            answers = [a for a in found if (a.pair, a.attempt) == (pair, attempt)]
            assert [a.view for a in answers] == views
            sizes = [a.grid.shape for a in own if a.pair == pair and a.view in views]
            assert {a.grid.shape for a in answers} == {Counter(sizes).most_common(1)[0][0]}
    identity = {a.attempt: np.stack(a.frames).tobytes() for a in found if a.pair == 0 and a.view == 0}
    assert identity[0] != identity[1]


def test_each_attempt_of_repeated_votes_is_the_winner_of_its_repetition():
    draws = np.random.default_rng(1)
    config = Evaluation.model_validate(evaluation().model_dump() | {"answers": REPEATED, "sizes": "voted"})
    differ = 0
    for _ in range(200):
        grids = {(a, v): draws.integers(0, 2, (1, 2)).astype(np.uint8) for a in (0, 1) for v in config.views_of(a)}
        kept = [key for key in grids if draws.random() > 0.3]  # The others failed.
        proposals = collect_proposals([grids[k] for k in kept], [config.number(v, a) for a, v in kept])
        found = attempts_of({("t", 0): proposals}, config)["t", 0]
        for attempt in (0, 1):
            votes = Counter(grids[a, v].tobytes() for a, v in kept if a == attempt)  # Ties: the first seen.
            assert found[attempt].tobytes() == votes.most_common(1)[0][0]
        differ += found[0].tobytes() != found[1].tobytes()
    assert 20 < differ < 180
    lone = collect_proposals([INPUTS[0]], [config.number(25, 1)])
    assert [g.shape for g in attempts_of({("t", 0): lone}, config)["t", 0]] == [NOTHING.shape, INPUTS[0].shape]
    late = collect_proposals([INPUTS[0]] * 2, [config.number(3, 0), config.number(0, 1)])
    first = attempts_of({("t", 0): late}, config, count=1)["t", 0]
    assert [g.shape for g in first] == [NOTHING.shape, INPUTS[0].shape], "the first view of the first vote failed"


@pytest.mark.slow
def test_the_tasks_own_row_is_that_of_every_view(workspace):
    """67a84e98, evaluate.py:302-435: with it views beyond those trained on, which have no row, can vote too."""
    views = {"training_views": 4, "evaluation_views": 4, "voting_views": 7}
    config = build(version="v0", augment=views, evaluations={"votes": {"answers": {"views": 4}}})
    description = save_checkpoint(config, first_rows=[0, 4, 8, 12], task_rows=16)
    dataset, seen = packed_dataset(views=7), {}

    class Rows(Oracle):
        def encode(self, packed):
            for i in range(len(packed.examples.task)):
                if packed.examples.real[i]:
                    seen[int(packed.examples.view[i])] = int(packed.examples.task[i])
            raise RuntimeError("seen")

    own = {0: 0, 1: 1, 2: 2, 3: 3, 7: 4, 8: 5, 9: 6, 10: 7}
    for task_row, wanted in (("task", {view: 4 * (view > 6) for view in range(14)}), ("view", own)):
        seen.clear()
        predictor = predictor_of(Rows(dataset), description, dataset)
        voting = Evaluation.model_validate(
            evaluation().model_dump() | {"answers": {"by": "votes", "views": 7}, "task_row": task_row}
        )
        list(predictor.answer(voting, failures=[]))
        assert seen == wanted


@pytest.mark.parametrize(
    ("version", "dataset", "by", "views", "sizes", "row", "time_map"),
    [
        ("v0", "aa1-20x20", "repeated-votes", 79, "voted", "task", "raw-index"),
        ("v1", "aa1-20x20", "repeated-votes", 79, "voted", "view", "raw-index"),
        ("v1", "aa2-hard-20x20", "repeated-votes", 79, "voted", "view", "raw-index"),
        ("v1", "aa1", "votes", 40, "split-in-order", "view", "raw-index"),
        ("v2", "aa1", "votes", 40, "split-in-order", "view", "spaced"),
        ("v3", "aa1", "votes", 72, "split-in-order", "view", "spaced"),
        ("v7", "aa1", "votes", 72, "split-in-order", "view", "spaced"),
    ],
)
def test_votes_lab_is_how_the_lab_voted(version, dataset, by, views, sizes, row, time_map):
    found = named(version, "smol", dataset).evaluations["votes-lab"]
    assert (found.answers.by, found.views, found.sizes, found.task_row) == (by, views, sizes, row)
    assert (found.time_map, found.transposed_sizes, found.steps) == (time_map, "unswapped", 32)
    assert found.attempts == (2 if by == "repeated-votes" else 1)


def test_evaluations_of_128_steps_and_of_temporal_conditioning_by_name():
    for version in ("v0", "v3", "v7", "v7-temporal"):
        evaluations = named(version, "smol").evaluations
        for name in ("attempts", "votes"):
            assert evaluations[f"{name}-128-steps"] == evaluations[name].model_copy(update={"steps": 128})
    evaluations = named("v7", "smol").evaluations
    for name in ("attempts", "votes"):
        assert evaluations[f"{name}-temporal"] == evaluations[name].model_copy(update={"self_conditioning": "temporal"})
        assert evaluations[f"{name}-temporal"].sampler == "argmax"


def test_the_labs_votes_go_through_the_stages(workspace):
    changes = {"votes-lab": {"steps": 2, "answers": {"views": 3}}, "votes-128-steps": {"answers": {"views": 40}}}
    chosen = {"checkpoints": ["best"], "evaluations": ["votes-lab"]}
    config = build(version="v0", evaluations=changes, predict=chosen, augment={"voting_views": 30})
    tasks = len(tables.read_tasks())
    save_checkpoint(config, first_rows=[40 * i for i in range(tasks)], task_rows=40 * tasks)
    predict.main("best", "votes-lab")
    frame, source = predictions.read(paths.predictions("best", "votes-lab"))
    for _, rows in frame.groupby(["task", "test"]):
        assert [*zip(rows["attempt"], rows["view"], strict=True)] == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 3), (1, 4)]
    score.main("best", "votes-lab")
    row = score_table.rows(config)[0]
    assert row.settings == "2 steps, draw, 2 votes of 3 views"
    assert row.votes == 0
    winners = json.loads(paths.submission("best", "votes-lab").read_text())
    for (task, test), rows in frame.groupby(["task", "test"]):
        for attempt in (0, 1):
            own = rows[rows["attempt"] == attempt]
            votes = Counter((grid.shape, grid.tobytes()) for grid in own["grid"])
            shape, cells = votes.most_common(1)[0][0]
            wanted = np.frombuffer(cells, dtype=np.uint8).reshape(shape).tolist()
            assert winners[task][test][f"attempt_{attempt + 1}"] == wanted
    assert source.evaluation.attempts == 2
    with pytest.raises(SystemExit, match=r"predict: votes-128-steps: answers.views is 40; augment.voting_views is 30"):
        predict.main("best", "votes-128-steps")
