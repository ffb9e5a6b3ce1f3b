"""Selection by pass@2 or by the lab's validation loss, and its mark on every score of `best`."""

import json

import numpy as np
import pytest
import torch
import yaml

from model.config.evaluation import Evaluation
from model.inference.predictor import Predictor
from model.scoring.wording import SELECTED_BY_LOSS, caveats
from model.storage import checkpoints
from model.training.validation import CROSS_ENTROPY, Validation
from tasks import augment, predict, prepare, score, select, train
from tasks.common import paths
from tasks.files import tables
from tests.conftest import experiment, puzzles

LOSS = {"criterion": "validation-loss"}


@pytest.fixture
def trained(raw):
    """A small training whose candidates are not chosen yet; returns what writes another experiment for it."""
    raw(puzzles())

    def write(**changes):
        config = experiment(predict={"checkpoints": ["best", "final"], "evaluations": ["attempts"]}, **changes)
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))

    write()
    for stage in (prepare, augment, train):
        stage.main()
    return write


def _sizes_cross_entropy(stem, weights):
    """Mean of the heights' and widths' cross-entropies, from the sizes that the predictor's view 0 is given."""
    network, description = checkpoints.load(stem, torch.device("cpu"), weights)
    data, names = tables.read_validation(paths.TRAINING_VIEWS), [task["name"] for task in tables.read_tasks()]
    predictor = Predictor(network, description, data, names, 0, torch.device("cpu"))
    scores = predictor._sizes([(pair, 0) for pair in range(len(data.pairs))], None, "view")
    sides = zip(data.pairs.output_height.tolist(), data.pairs.output_width.tolist(), strict=True)
    return float(np.mean([-scores[i, 0, h - 1] - scores[i, 1, w - 1] for i, (h, w) in enumerate(sides)]))


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_the_loss_is_the_labs_of_the_weights_that_are_asked(trained, monkeypatch, weights):
    """Ledger B7: cross-entropy of the cells and 0.1 of that of the sizes, whatever train.size_loss_weight says."""
    trained(select=LOSS | {"weights": weights}, train={"size_loss_weight": 0.7})
    measure = Validation.measure
    monkeypatch.setattr(Validation, "measure", lambda *args: measure(*args) | {CROSS_ENTROPY: 5.0})
    select.main()
    for result in json.loads(paths.SELECTION.read_text())["candidates"]:
        wanted = 5 + 0.1 * _sizes_cross_entropy(paths.candidate(result["step"]), weights)
        assert result["validation_loss"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("criterion", ["pass-at-2", "validation-loss"])
def test_the_criterion_decides(trained, monkeypatch, criterion):
    """Of equal scores the later candidate is the best; the loss is made to rise."""
    trained(select={"criterion": criterion})
    monkeypatch.setattr(select, "validation_loss", lambda stem, *_: float(checkpoints.describe(stem).step))
    select.main()
    selection = json.loads(paths.SELECTION.read_text())
    steps = [result["step"] for result in selection["candidates"]]
    assert {result["pass_at_2"] for result in selection["candidates"]} == {0.0}
    assert selection["criterion"] == criterion
    assert all(("validation_loss" in r) == (criterion == "validation-loss") for r in selection["candidates"])
    assert selection["final"] == steps[-1]
    if criterion == "validation-loss":
        assert selection["best"] == steps[0]
    Evaluation.model_validate(selection["evaluation"])


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["pass-at-2", "validation-loss"])
def test_every_score_of_best_says_that_the_loss_chose_it(trained, capsys, criterion):
    trained(select={"criterion": criterion})
    select.main()
    for checkpoint in ("best", "final"):
        predict.main(checkpoint, "attempts")
        capsys.readouterr()
        score.main(checkpoint, "attempts")
        marked = checkpoint == "best" and criterion == "validation-loss"
        assert (SELECTED_BY_LOSS in capsys.readouterr().out) == marked
        result = json.loads(paths.score(checkpoint, "attempts").read_text())
        assert caveats(result) == ((SELECTED_BY_LOSS,) if marked else ())
