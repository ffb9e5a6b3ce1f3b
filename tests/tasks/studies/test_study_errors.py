"""Study files with something wrong, the experiments of those that are right, and what is predicted of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.common.presets import ConfigurationError
from tasks.studies import predict_all
from tasks.studies.study_file import read_study
from tests.conftest import experiment

ONE, TWO = "v3/tiny/aa1", "v6/tiny/aa1"
OWN = "v3-tiny-aa1"
"""The label of ONE."""
LABELS = "allowed are letters, digits and . _ + -, with a letter or digit first"


def study(tmp_path: Path, **values: Any) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"experiments": {ONE: {}, TWO: {"train": {"batch": 32}}}} | values))
    return path


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"zeta": 1, "alpha": 1}, ": alpha: unknown; allowed are common, experiments, final_only, seeds"),
        ({"experiments": [1]}, ": experiments is [1]; expected keys and values"),
        ({"common": "x"}, ": common is 'x'; expected keys and values"),
        ({"experiments": {ONE: 5}}, f": {ONE} is 5; expected keys and values"),
        ({"seeds": 3}, ": seeds is 3; expected a list of whole numbers, such as [0, 1]"),
        ({"seeds": [0, -1]}, ": seeds is [0, -1]; expected a list of whole numbers, such as [0, 1]"),
        ({"seeds": [True]}, ": seeds is [True]; expected a list of whole numbers, such as [0, 1]"),
        ({"final_only": ["votes", "zz", "aa"]}, ": final_only: aa is no evaluation of these experiments"),
        ({"experiments": {"-x": {"name": ONE}}}, f": label '-x' names a folder; {LABELS}"),
        ({"experiments": {"a": {"name": ONE}, "b": {"name": ONE}}}, ": a and b are the same experiment; leave one out"),
        ({"experiments": {ONE: {}, OWN: {"name": TWO}}}, f": two experiments are called {OWN}; give one another label"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    path = study(tmp_path, **values)
    with pytest.raises(ConfigurationError) as refused:
        read_study(path)
    assert str(refused.value) == f"{path}{says}"


def test_an_unknown_name_is_answered_by_the_nearest(tmp_path: Path) -> None:
    path = study(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        read_study(path, [ONE, "v3/tiny/aa2"])
    assert str(refused.value) == f"{path} has no experiment 'v3/tiny/aa2'; did you mean 'v3/tiny/aa1'?"


def test_members_are_in_the_order_of_the_file_or_of_the_names(tmp_path: Path) -> None:
    common = {"train": {"batch": 16, "log_every": 50}}
    path = study(tmp_path, seeds=[2, 0], common=common, final_only=["attempts"])
    members = read_study(path)
    assert [member.label for member in members] == ["v3-tiny-aa1-s2", "v3-tiny-aa1", "v6-tiny-aa1-s2", "v6-tiny-aa1"]
    assert [(m.experiment.seed, m.experiment.train.batch) for m in members] == [(2, 16), (0, 16), (2, 32), (0, 32)]
    assert {m.experiment.train.log_every for m in members} == {50}
    assert {m.final_only for m in members} == {frozenset({"attempts"})}
    assert [m.label for m in read_study(path, [TWO])] == ["v6-tiny-aa1-s2", "v6-tiny-aa1"]
    alone = study(tmp_path, final_only=["zz"])
    assert [m.experiment.seed for m in read_study(alone, [TWO, ONE])] == [0, 0], "others may ask for zz"


def test_the_final_checkpoint_comes_first_and_alone_is_asked_some() -> None:
    config = experiment(predict={"checkpoints": ["best", "final", "halfway"], "evaluations": ["votes", "attempts"]})
    both = [("final", "votes"), ("final", "attempts")]
    rest = [(name, evaluation) for name in ("best", "halfway") for evaluation in ("votes", "attempts")]
    assert list(predict_all.pairs(config)) == both + rest
    assert list(predict_all.pairs(config, {"votes"})) == [*both, ("best", "attempts"), ("halfway", "attempts")]
