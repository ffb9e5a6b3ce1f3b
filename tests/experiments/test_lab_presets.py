"""What the lab ran that is not a version: sizes of its first data sets, fine-tunings, and lists of tasks."""

from pathlib import Path

import pytest

from model.puzzles import grids
from tasks import fetch
from tasks.commands import show_experiment
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tasks.common.stage import StageError
from tasks.sources import arckit_tasks, selection
from tests.conftest import experiment
from tests.support.presets import named

# Ledger 5.2 and 8: width, layers, batch x accumulation, learning rate, updates, warm-up of v1's first data sets.
EARLY = {
    ("smol", "aa1-20x20"): (384, 4, 128, 4e-4, 96000, 4800),
    ("smol", "aa2-hard"): (384, 4, 128, 4e-4, 48000, 2400),
    ("mediom", "aa2-hard"): (512, 8, 128, 3e-4, 72000, 3600),
    ("lorge", "aa2-hard"): (768, 12, 64, 2e-4, 96000, 4800),
    ("smol", "aa2-hard-20x20"): (384, 4, 128, 4e-4, 96000, 4800),
    ("mediom", "aa2-hard-20x20"): (512, 8, 128, 2e-4, 96000, 4800),
    ("lorge", "aa2-hard-20x20"): (768, 12, 128, 1e-4, 96000, 4800),
}


@pytest.mark.parametrize(("size", "dataset"), EARLY)
def test_the_first_data_sets_of_v1_have_their_own_sizes(size, dataset):
    train = named("v1", size, dataset).train
    network, examples = train.network, train.batch * train.accumulation
    found = network.width, network.layers, examples, train.optimizer.learning_rate
    assert (*found, train.optimizer_steps, train.warmup_steps) == EARLY[size, dataset]


def test_the_fine_tunings_are_the_ledgers():
    """Ledger 5.1, smol_lora and lorge_ttt, and 8."""
    lora = named("v3+lora", "smol", "aa2").train
    assert (lora.optimizer_steps, lora.warmup_steps, lora.optimizer.learning_rate) == (8000, 400, 4e-4)
    assert (lora.finetune.rank, lora.finetune.alpha, lora.finetune.dropout) == (16, 16.0, 0.0)
    assert lora.finetune.task_table == "trained"
    for name in ("test-time", "test-time-1", "test-time-10"):
        found = named(f"v1+{name}", "lorge", "aa2-hard")
        train, tuned = found.train, found.train.finetune
        assert (train.optimizer_steps, train.warmup_steps, train.optimizer.learning_rate) == (512, 25, 1e-4)
        assert (train.batch, train.accumulation, train.evaluation_weight) == (64, 1, 1.0)
        assert (train.network.width, train.network.layers) == (768, 12)
        assert (tuned.rank, tuned.alpha, tuned.pairs, tuned.task_table) == (1, 16.0, "evaluation", "frozen")
        assert set(tuned.targets) == {"attention_out", "feed_in", "feed_out", "size_head"}
        assert (found.augment.scheme, found.augment.evaluation_views) == ("random-draws", 1 + 339)
        assert train.evaluated_weights == "raw"
    ours = named("v3+test-time-ours-1", "smol", "aa1")
    assert "attention_in" in ours.train.finetune.targets
    assert ours.train.finetune.task_table == "trained"
    with pytest.raises(ConfigurationError, match="scheme 'all' has 72 views"):
        named("v3+test-time", "lorge", "aa2-hard")


@pytest.mark.slow
def test_the_labs_lists_by_name(workspace: Path):
    """Ledger 8: its shortest task is e8686506, ours 20270e3b; eight of its ten are of our ten."""
    paths.RAW.mkdir(parents=True)
    files = arckit_tasks.from_arckit("arcagi2")
    tasks = {name: grids.task(name, task) for name, task in files["evaluation", "challenges"].items()}
    solved = {
        name: grids.solutions(name, files["evaluation", "solutions"][name], len(t.test)) for name, t in tasks.items()
    }

    def kept(subset):
        config = experiment(dataset="aa2", prepare={"evaluation_subset": subset})
        fetch.copy_subset("evaluation", subset)
        return set(selection.keep(tasks, solved, config.prepare, "evaluation"))

    assert kept("lab-shortest-1") == {"e8686506"}
    assert kept("shortest-1") == {"20270e3b"}
    assert len(kept("lab-shortest-10")) == len(kept("shortest-10")) == 10
    assert len(kept("lab-shortest-10") & kept("shortest-10")) == 8
    assert list(paths.RAW.iterdir()) == []  # They are dependencies of `prepare` themselves.
    assert named("v1+test-time-1", "lorge", "aa2-hard").prepare.evaluation_subset == "lab-shortest-1"
    assert named("v1+test-time-10", "lorge", "aa2-hard").prepare.evaluation_subset == "lab-shortest-10"
    paths.OWN.mkdir()
    (paths.OWN / "lab-shortest-1").write_text("e8686506")
    with pytest.raises(StageError, match="has the name of a subset that needs no file; rename it"):
        fetch.copy_subset("evaluation", "lab-shortest-1")


@pytest.mark.slow
def test_the_hard_tasks_are_the_labs_137_training_tasks():
    training = arckit_tasks.from_arckit("arcagi2")["training", "challenges"]
    hard = (selection.LISTS / "lab-training-hard.txt").read_text().split()
    assert len(hard) == len(set(hard)) == 137
    assert set(hard) <= set(training)
    assert named("v1", "smol", "aa2-hard").prepare.training_subset == "lab-training-hard"
    assert show_experiment.task_counts(named("v1", "smol", "aa2-hard")) == (137, 120)
    assert show_experiment.task_counts(named("v1", "smol", "aa2-hard-20x20"))[0] == 59  # Ledger 2.5.


def test_the_new_tasks_are_those_that_arc_agi_1_lacks(workspace: Path):
    old = arckit_tasks.from_arckit("arcagi")
    config = experiment(dataset="aa2-new")
    assert config.prepare.training_subset == selection.NOT_IN_ARC_AGI_1
    mixed = dict.fromkeys(("xxxxxxxx", *list(old["training", "challenges"])[:3]))
    assert selection._subset(selection.NOT_IN_ARC_AGI_1, mixed, Path("none")) & set(mixed) == {"xxxxxxxx"}
