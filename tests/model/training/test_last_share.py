"""train.last_share_on_evaluation: the last updates see demonstrations of evaluation tasks alone, resumed or not."""

import itertools

import numpy as np
import pytest
import torch
import yaml

from model.network.packing import pad_to_budget
from model.puzzles.arrays import Pairs, Views
from model.training.batches import Last, Stream
from model.training.sampling_weights import last_weight
from model.training.trainer import Stopped, Training
from tasks import augment, prepare, train
from tasks.common import paths
from tasks.common.stage import StageError
from tests.conftest import experiment, puzzles
from tests.support.small_training import dataset

PREFIX = 3
EVALUATED = np.arange(40) % 5 == 0


def _stream(first=None, seed=0):
    sides = np.random.default_rng(5).integers(1, 12, size=(40, 4))
    offset = np.arange(40) * 300
    pairs = Pairs(np.arange(40) // 4, np.arange(40) % 4, offset, *sides.T[:2], offset + 150, *sides.T[2:])
    views = Views(np.arange(10), np.ones(10, int), np.zeros(10, int), np.zeros((10, 10), np.uint8), np.zeros(10, int))
    last = None if first is None else Last(first, EVALUATED.astype(float))
    return Stream(pairs, views, np.ones(40), 16, PREFIX, seed, last)


def _take(stream, count, first=0, place=None):
    batches = stream.batches(first, place) if place else stream.batches(first)
    return list(itertools.islice(batches, count))


def _pairs(batches):
    return {row[2] // 300 for rows in batches for row in rows}


@pytest.mark.parametrize("chunk", [4, 512])
@pytest.mark.parametrize("first", [0, 1, 9, 10])
def test_the_last_batches_are_of_evaluation_pairs_and_the_others_as_they_were(monkeypatch, chunk, first):
    monkeypatch.setattr("model.training.batches._CHUNK", chunk)
    found, plain = _take(_stream(first), 60), _take(_stream(), 60)
    assert found[:first] == plain[:first]
    assert _pairs(found[first:]) == set(np.flatnonzero(EVALUATED).tolist())
    assert _pairs(plain[first:]) == set(range(40))
    for rows in found:  # All fit the budget of the stream without them.
        pad_to_budget(rows, PREFIX, _stream().budget)
    assert _take(_stream(first, seed=1), 60)[first:] != found[first:]


@pytest.mark.parametrize("reached", [3, 12, 13, 14, 30])
def test_a_batch_is_a_function_of_the_seed_and_its_number(monkeypatch, reached):
    monkeypatch.setattr("model.training.batches._CHUNK", 5)
    whole, before = _take(_stream(13), 60), _stream(13)
    _take(before, reached)
    assert _take(_stream(13), 20, first=reached) == whole[reached : reached + 20]
    assert _take(_stream(13), 20, reached, before.place) == whole[reached : reached + 20]


def _training(share, weight=None, until=None, state=None):
    changes = {"optimizer_steps": 8, "warmup_steps": 2, "log_every": 1, "last_share_on_evaluation": share}
    config = experiment(train=changes).train
    own = (np.arange(18) < 6).astype(float) if weight is None else weight
    subject = Training(dataset(), np.ones(18), 6, config, 0, torch.device("cpu"), last_weight=own)
    if state:
        subject.restore(*state)
    try:
        subject.run(
            on_row=lambda _: None, on_candidate=lambda _: None, on_save=lambda: None, stop=lambda: subject.step == until
        )
    except Stopped:
        assert subject.step == until
    return subject


@pytest.mark.slow
def test_updates_before_it_are_as_without_it_and_a_resumed_training_ends_the_same():
    torch.use_deterministic_algorithms(True)
    without, whole = _training(0.0), _training(0.25)
    losses, plain = ([row["loss"] for row in subject.history] for subject in (whole, without))
    assert losses[:6] == plain[:6]
    assert losses[6] != plain[6]
    for until in (3, 6, 7):
        half = _training(0.25, until=until)
        state = {name: tensor.clone() for name, tensor in half.state()[0].items()}, half.state()[1]
        assert _training(0.25, state=state).history == whole.history


def test_the_weights_are_those_of_evaluation_tasks(raw, monkeypatch):
    raw(puzzles())
    config = experiment(train={"last_share_on_evaluation": 0.5}, prepare={"validation_tasks": 1})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    prepare.main()
    augment.main()
    given = []

    def spy(dataset, *rest):
        given.append((dataset.pairs.task, rest[-1]))
        raise StageError("seen")

    monkeypatch.setattr(train, "Training", spy)
    with pytest.raises(SystemExit, match="seen"):
        train.main()
    ((task, weight),) = given
    assert weight.tolist() == (task == 2).astype(float).tolist()
    assert 0 < weight.sum() < len(weight)


def test_without_such_pairs_it_is_refused():
    with pytest.raises(ValueError, match="needs demonstrations of evaluation tasks, but there are none"):
        last_weight(np.array(["training", "mine"]))
    with pytest.raises(ValueError, match="needs the sampling weights"):
        Training(
            dataset(), np.ones(18), 6, experiment(train={"last_share_on_evaluation": 0.1}).train, 0, torch.device("cpu")
        )
