"""How often each pair is drawn, against its definition."""

import numpy as np
import pytest

from model.training.sampling_weights import sampling_weights
from tasks.common.presets import ConfigurationError
from tests.conftest import experiment

ORIGINS = np.array(["training"] * 6 + ["evaluation"] * 4 + ["rearc"] * 40 + ["mine"] * 2)


def _shares(weight):
    return {str(o): weight[o == ORIGINS].sum() / weight.sum() for o in set(ORIGINS)}


def test_without_shares_only_evaluation_pairs_weigh_more():
    weight = sampling_weights(ORIGINS, 3.0, {})
    assert weight.tolist() == [1.0] * 6 + [3.0] * 4 + [1.0] * 42


def test_origins_have_their_shares_and_the_rest_is_divided_by_weight():
    found = _shares(sampling_weights(ORIGINS, 3.0, {"rearc": 0.3, "mine": 0.1}))
    assert found == pytest.approx({"rearc": 0.3, "mine": 0.1, "training": 0.6 * 6 / 18, "evaluation": 0.6 * 12 / 18})
    found = _shares(sampling_weights(ORIGINS, 3.0, {"evaluation": 0.5}))
    assert found == pytest.approx({"evaluation": 0.5, "training": 3 / 48, "rearc": 20 / 48, "mine": 1 / 48})
    assert len(set(sampling_weights(ORIGINS, 3.0, {"rearc": 0.3})[ORIGINS == "rearc"])) == 1


def test_a_share_of_an_origin_without_pairs_is_refused():
    with pytest.raises(ValueError, match=r"gives 'other' a share of 0\.2, but the pairs are of evaluation, mine"):
        sampling_weights(ORIGINS, 1.0, {"other": 0.2})


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ({"rearc": 0.6, "evaluation": 0.4}, "add up to 1;"),
        ({"mine": 0.1}, "names 'mine'; allowed are 'evaluation' and the sources of fetch.extra"),
        ({"rearc": 0.0}, "train.origin_shares.rearc"),
    ],
)
def test_shares_that_cannot_be_are_refused(shares, says):
    with pytest.raises(ConfigurationError, match=says):
        experiment(fetch={"extra": ["rearc"]}, train={"origin_shares": shares})
