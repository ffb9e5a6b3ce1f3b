"""Every version, size and dataset by name: it resolves, builds, trains and predicts, and is what the ledger says."""

import numpy as np
import pytest

from model.augmentation import COMPOSE, D4
from model.configuration import Augment, Experiment
from model.corpus import view_tokens
from model.dataset import Views
from model.views import make_views, voting_seed
from tasks import params, paths
from tests.conftest import ROOT, experiment

PRESETS = params.read(ROOT / paths.PRESETS)
VERSIONS, SIZES, DATASETS = (list(PRESETS[section]) for section in ("versions", "sizes", "datasets"))
LABS = ("toiny", "smol", "smol-deep", "mediom", "lorge", "huoge", "giont")


def named(version: str, size: str, dataset: str = "aa1") -> Experiment:
    """An experiment as presets.yaml has it."""
    return params.resolve({"version": version, "size": size, "dataset": dataset, "seed": 0}, PRESETS)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_every_size_and_dataset(version):
    for size in SIZES:
        for dataset in DATASETS:
            assert named(version, size, dataset).name == f"{version}/{size}/{dataset}"
        train = named(version, size).train
        assert (size == "tiny") == (train.optimizer_steps <= 1000)


# Ledger 5.1 and the last column of 5.2: updates and warm-up of v2 ... v3-reverted, of v6 and v7; batch x accumulation.
STEPS = {
    "toiny": (192000, 1000, 48000, 48000, 128),
    "smol": (96000, 1500, 48000, 48000, 128),
    "smol-deep": (96000, 1500, 48000, 24000, 256),
    "mediom": (96000, 3000, 48000, 48000, 128),
    "lorge": (96000, 4000, 48000, 48000, 128),
    "huoge": (96000, 8000, 48000, 48000, 128),
    "giont": (96000, 12000, 48000, 48000, 128),
}


@pytest.mark.parametrize("size", LABS)
def test_the_steps_of_every_size_are_the_ledgers(size):
    before, warmup, v6, v7, examples = STEPS[size]
    for version in ("v2", "v3", "v4", "v5", "v3-reverted"):
        train = named(version, size).train
        assert (train.optimizer_steps, train.warmup_steps, train.schedule) == (before, warmup, "cosine")
    for version, steps in (("v6", v6), ("v7", v7), ("v7-temporal", v7)):
        train = named(version, size).train
        assert (train.optimizer_steps, train.warmup_steps, train.schedule) == (steps, 2000, "constant")
        assert train.evaluated_weights == "ema"
    assert train.batch * train.accumulation == examples
    assert named("v6", "smol-deep").train.batch == 128


@pytest.mark.parametrize("scheme", ["all", "random-draws", "permutations"])
def test_fewer_views_are_the_first_of_more(scheme):
    """Under 'augmented-task' the voting views must be views that were trained on, under the same numbers."""
    config = Augment(scheme=scheme, training_views=72, evaluation_views=72, voting_views=40)
    more, fewer = (make_views(config, np.array(n), 2 * 7) for n in ([72, 72, 72], [40, 5, 33]))
    for task, count in enumerate(fewer.count):
        a, b = fewer.start[task], more.start[task]
        for field in ("element", "colours", "colour_cycle"):
            assert np.array_equal(getattr(fewer, field)[a : a + count], getattr(more, field)[b : b + count])
    assert voting_seed("augmented-task", 7) == 2 * 7
    assert voting_seed("d4", 7) == 2 * 7 + 1


def test_an_augmented_task_votes_with_views_it_was_trained_on():
    views = {"training_views": 8, "evaluation_views": 40, "voting_views": 40}
    with pytest.raises(params.ConfigurationError, match=r"votes: votes is 9; .* only the 8 views trained on"):
        experiment(version="v0", augment=views, evaluations={"votes": {"votes": 9}})


def test_rotation_and_flip_tokens_are_the_element():
    """The flip first, then the rotation, by composing D4 elements: 4 mirrors left-right, 0-3 turn clockwise."""
    network = experiment(version="v2").train.network
    none = np.zeros(D4, dtype=np.int64)
    colours = np.tile(np.arange(10, dtype=np.uint8), (D4, 1))
    tokens = view_tokens(network, Views(none[:1], none[:1] + D4, np.arange(D4), colours, none + 5))
    for element, (rotation, flip, cycle) in enumerate(tokens.tolist()):
        assert COMPOSE[4 * (flip - 4), rotation] == element
        assert cycle - 8 == 5
