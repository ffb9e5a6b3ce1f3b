"""Answering with networks that are known: every view votes rightly, and batches change nothing."""

import numpy as np
import pytest
import torch

from model.inference import batching
from model.inference import predictor as prediction
from model.inference.answer import Failure
from model.inference.batching import batches, bisect_failures
from model.inference.predictor import Predictor
from model.puzzles.symmetry import SWAP
from tests.support.oracle import OUTPUTS, TWICE, Oracle, evaluation, packed_dataset, predictor_of, votes
from tests.support.small_experiment import build, save_checkpoint

AUGMENT = {"training_views": 40, "evaluation_views": 40, "voting_views": 40}
VOTES = {"votes": {"answers": {"views": 40}}}


@pytest.fixture
def description(workspace):
    return save_checkpoint(build())


@pytest.mark.parametrize("sampler", ["draw", "argmax", "posterior", "renoise"])
def test_a_model_that_knows_the_answer_gets_72_of_72_views(description, sampler):
    dataset = packed_dataset()
    answers = list(predictor_of(Oracle(dataset), description, dataset).answer(evaluation(sampler=sampler)))
    right = [np.array_equal(answer.grid, OUTPUTS[answer.pair]) for answer in answers]
    assert [sum(r for r, a in zip(right, answers, strict=True) if a.pair == pair) for pair in (0, 1)] == [72, 72]
    assert {answer.view for answer in answers} == set(range(72))


def test_with_the_labs_unswapped_sizes_it_gets_36_of_72(description, monkeypatch):
    """Version ledger B5: the views that transpose answer at the other shape, and are wrong."""
    dataset = packed_dataset()
    monkeypatch.setattr(prediction, "SWAP", np.zeros_like(SWAP))
    answers = list(predictor_of(Oracle(dataset), description, dataset).answer(evaluation()))
    assert sum(np.array_equal(answer.grid, OUTPUTS[answer.pair]) for answer in answers) == 2 * 36


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", ["draw", "renoise", *(pytest.param(name, marks=pytest.mark.slow) for name in ("argmax", "posterior"))]
)
@pytest.mark.parametrize("how", [{"answers": votes(10)}, {"answers": TWICE}])
def test_batches_of_any_size_give_the_same_predictions(workspace, monkeypatch, sampler, how):
    _same_in_batches(monkeypatch, 2, evaluation(steps=4, sampler=sampler, **how))


@pytest.mark.slow
def test_batches_of_1_7_and_512_give_the_same_predictions(workspace, monkeypatch):
    _same_in_batches(monkeypatch, 8, evaluation(steps=2))


def _same_in_batches(monkeypatch, tasks, evaluation):
    """Of 1, 7 and 512, or of all there are."""
    from model.storage import checkpoints
    from tasks.common import paths

    save_checkpoint(build(), task_rows=8, first_rows=list(range(8)))
    network, description = checkpoints.load(paths.CHECKPOINTS / "best", torch.device("cpu"))
    draws = np.random.default_rng(0)
    dataset = packed_dataset(inputs=[draws.integers(0, 10, (3, 4)).astype(np.uint8) for _ in range(tasks)])
    names = [f"{i:08x}" for i in range(tasks)]
    cut: list[int] = []

    def of(size):
        def cut_by_number(lengths, budget):
            order = np.argsort(lengths, kind="stable").tolist()
            for start in range(0, len(order), size):
                cut.append(len(order[start : start + size]))
                yield order[start : start + size]

        return cut_by_number

    found = {}
    for size in (1, 7, 512):
        monkeypatch.setattr(batching, "batches", of(size))
        cut.clear()
        predictor = Predictor(network, description, dataset, names, 0, torch.device("cpu"))
        found[size] = sorted(predictor.answer(evaluation), key=lambda a: a[:3])
        assert max(cut) == min(size, tasks * evaluation.views * evaluation.attempts)
    assert len({np.stack(a.frames).tobytes() for a in found[1] if a.frames}) > 1
    for size in (7, 512):
        for one, other in zip(found[1], found[size], strict=True):
            assert one[:3] == other[:3]
            assert np.array_equal(one.grid, other.grid)
            assert one.last_changed_step == other.last_changed_step
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)
            assert all(np.array_equal(a, b) for a, b in zip(one.frames, other.frames, strict=True))


def test_another_seed_gives_other_draws_and_the_two_attempts_differ(workspace):
    from model.storage import checkpoints
    from tasks.common import paths

    save_checkpoint(build())
    network, description = checkpoints.load(paths.CHECKPOINTS / "best", torch.device("cpu"))
    dataset = packed_dataset(views=1)

    def frames(seed):
        predictor = Predictor(network, description, dataset, ["a", "b"], seed, torch.device("cpu"))
        answers = sorted(predictor.answer(evaluation(answers=TWICE, steps=4)), key=lambda a: a[:3])
        return [np.stack(answer.frames).tobytes() for answer in answers]

    assert frames(0) == frames(0)
    assert not set(frames(0)) & set(frames(1))
    assert len(set(frames(0))) == 4


@pytest.mark.parametrize("stage", ["size", "grid"])
def test_a_view_that_raises_is_reported_and_the_others_vote(description, stage):
    class Broken(Oracle):
        def encode(self, packed):
            if stage == "size" and self._bad(packed):
                raise RuntimeError("no size")
            return super().encode(packed)

        def denoise(self, packed, *rest):
            if stage == "grid" and self._bad(packed):
                raise RuntimeError("no grid")
            return super().denoise(packed, *rest)

        def _bad(self, packed):
            return bool(((packed.examples.view == 5) | (packed.examples.view == 72 + 7)).any())

    dataset = packed_dataset()
    failures: list[Failure] = []
    predictor = predictor_of(Broken(dataset), description, dataset)
    answers = list(predictor.answer(evaluation(), failures=failures))
    assert sorted(failures) == [(0, 5, 0, f"RuntimeError: no {stage}"), (1, 7, 0, f"RuntimeError: no {stage}")]
    assert len(answers) == 2 * 71
    assert all(np.array_equal(answer.grid, OUTPUTS[answer.pair]) for answer in answers)
    with pytest.raises(RuntimeError, match=f"no {stage}"):
        list(predictor.answer(evaluation()))


def test_halving_finds_the_bad_ones_and_gives_up_when_there_are_too_many(monkeypatch):
    bad = {3, 11}

    def work(batch):
        if bad & set(batch):
            raise ValueError("bad")
        return batch

    failed: dict[int, str] = {}
    done = [i for part in bisect_failures(work, list(range(16)), failed) for i in part]
    assert sorted(done) == sorted(set(range(16)) - bad)
    assert failed == {3: "ValueError: bad", 11: "ValueError: bad"}
    monkeypatch.setattr(batching, "MOST_FAILURES", 1)
    with pytest.raises(ValueError, match="bad"):
        list(bisect_failures(work, list(range(16)), {}))


def test_batches_keep_to_the_budget_and_lose_nothing():
    lengths = np.random.default_rng(0).integers(1, 50, 200).tolist()
    cut = list(batches(lengths, 100))
    assert sorted(i for batch in cut for i in batch) == list(range(200))
    assert all(sum(lengths[i] for i in batch) <= 100 for batch in cut)
    assert list(batches([500], 100)) == [[0]]


def test_with_an_embedding_a_view_only_views_with_one_are_asked(workspace):
    """Version ledger 2.1, v0: identical draws are dropped, so that tasks have unlike numbers of views."""

    class OracleByRow(Oracle):
        def encode(self, packed):
            rows = packed.examples.task
            asked.extend(rows.tolist())
            return super().encode(packed._replace(examples=packed.examples._replace(task=(rows >= 39).long())))

        def denoise(self, packed, *given):
            tasks = (packed.examples.task >= 39).long()
            return super().denoise(packed._replace(examples=packed.examples._replace(task=tasks)), *given)

    asked = []
    description = save_checkpoint(build(version="v0", augment=AUGMENT, evaluations=VOTES))
    description = description.model_copy(update={"first_rows": (0, 39), "task_rows": 50})
    dataset = packed_dataset(views=40)
    packer = predictor_of(OracleByRow(dataset), description, dataset)
    assert packer.available("view").tolist() == [39, 11]
    assert packer.available("task").tolist() == [40, 40]
    answers = list(packer.answer(evaluation(answers=votes(40))))
    assert sorted((a.pair, a.view) for a in answers) == [(0, v) for v in range(39)] + [(1, v) for v in range(11)]
    assert set(asked) == set(range(50)), "no embedding of another task, and none beyond the table"
    assert all(np.array_equal(a.grid, OUTPUTS[a.pair]) for a in answers)
