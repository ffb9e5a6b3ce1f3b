import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import params as stage_params
from tasks.common import params, paths
from tasks.common.presets import ConfigurationError, named
from tests.conftest import ROOT, SMALL, experiment

PRESETS = params.read(ROOT / paths.PRESETS)


def _refused(**changes):
    with pytest.raises(ConfigurationError) as caught:
        experiment(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "v33"}, r"version is 'v33'; allowed are .*v3.* did you mean 'v3'"),
        ({"size": "tinny"}, r"size is 'tinny'.* did you mean 'tiny'"),
        ({"sed": 1}, r"unknown key sed \(given: 1\).* did you mean 'seed'"),
        ({"train": {"warmup_step": 1}}, r"unknown key train.warmup_step \(given: 1\).*did you mean 'warmup_steps'"),
        ({"evaluations": {"votes": {"step": 3}}}, r"unknown key evaluations.votes.step .*did you mean 'steps'"),
        ({"train": {"batch": "x"}}, r"train.batch is 'x'; Input should be a valid integer"),
        ({"train": {"batch": 0}}, r"train.batch is 0; Input should be greater than 0"),
        ({"train": {"network": {"heads": 5}}}, r"heads 5 do not divide width 32; allowed: \[1, 2, 4\]"),
        ({"train": {"schedule": "cosin"}}, r"train.schedule is 'cosin'.*did you mean 'cosine'"),
        ({"train": {"optimizer_steps": 0}}, r"train.optimizer_steps is 0"),
        ({"train": {"candidates": 3}}, r"candidates is 3; it must be even .* allowed up to 20: \[2, 4, 6, 12\]"),
        ({"train": {"optimizer_steps": 1}}, r"train.optimizer_steps is 1"),
        ({"train": {"optimizer": {"learning_rate": float("nan")}}}, r"train.optimizer.learning_rate is nan"),
        (
            {"evaluations": {"votes": {"attempts": 2}}},
            r"votes.attempts is now evaluations.votes.answers.count",
        ),
        ({"evaluations": {"votes": {"answers": {"views": 73}}}}, r"answers.views is 73; augment.voting_views is 72"),
        ({"evaluations": {"votes": {"answers": {"vews": 3}}}}, r"unknown key evaluations.votes.answers.vews .*'views'"),
        ({"select": {"answers": {"by": "vote"}}}, r"select.answers.by is 'vote'.*'attempts', 'votes'"),
        ({"predict": {"evaluations": ["vote"]}}, r"predict names evaluation 'vote'"),
        ({"predict": {"checkpoints": ["first"]}}, r"predict.checkpoints.0 is 'first'"),
        ({"augment": {"training_views": 8}}, r"scheme 'all' has 72 views"),
        ({"seed": -1}, r"seed is -1"),
    ],
)
def test_what_is_wrong_is_refused_by_name(changes, says):
    assert re.search(says, _refused(**changes), re.DOTALL)


def test_several_mistakes_are_all_named():
    message = _refused(train={"warmup_step": 1, "batch": "x"}, sed=1)
    assert len(message.splitlines()) == 3


def test_overrides_win_over_version_over_size():
    resolved = experiment(train={"optimizer": {"learning_rate": 0.125}})
    assert resolved.train.optimizer.learning_rate == 0.125
    assert resolved.train.optimizer.name == PRESETS["defaults"]["train"]["optimizer"]["name"]
    assert experiment(version="v6").train.schedule == PRESETS["versions"]["v6"]["train"]["schedule"] == "constant"
    assert resolved.train.size_loss_weight == PRESETS["sizes"]["tiny"]["train"]["size_loss_weight"]
    assert resolved.name == "v3/tiny/aa1-6x6"


def test_the_resolved_experiment_is_frozen_and_survives_its_file(tmp_path):
    resolved = experiment()
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(resolved.model_dump(mode="json")))
    assert params.check(params.read(path), "there") == resolved
    with pytest.raises(ValueError, match="frozen"):
        resolved.train.batch = 3


def test_a_versions_values_for_a_size_win_over_both_and_a_misspelt_size_is_named():
    presets = copy.deepcopy(PRESETS)
    presets["versions"]["v3"]["by_size"] = {"tiny": {"train": {"batch": 24}}}
    values = {key: SMALL[key] for key in ("version", "size", "dataset", "seed")}
    assert params.resolve(values, presets).train.batch == 24
    assert params.resolve(values | {"size": "smol"}, presets).train.batch == 128
    presets["versions"]["v3"]["by_size"]["smoll"] = {}
    with pytest.raises(ConfigurationError, match=r"versions.v3.by_size is 'smoll'.*did you mean 'smol'"):
        params.resolve(values, presets)


def test_what_a_version_says_of_a_dataset_wins_over_what_it_says_of_a_size():
    presets = copy.deepcopy(PRESETS)
    presets["versions"]["v3"]["by_size"] = {"tiny": {"train": {"batch": 24, "log_every": 7}}}
    presets["versions"]["v3"]["by_dataset"] = {"aa2": {"train": {"batch": 48}}}
    values = {key: SMALL[key] for key in ("version", "size", "dataset", "seed")}
    assert params.resolve(values, presets).train.batch == 24
    train = params.resolve(values | {"dataset": "aa2"}, presets).train
    assert (train.batch, train.log_every) == (48, 7)
    assert params.resolve(values | {"dataset": "aa2", "train": {"batch": 8}}, presets).train.batch == 8
    presets["versions"]["v3"]["by_dataset"]["aa3"] = {}
    with pytest.raises(ConfigurationError, match=r"versions.v3.by_dataset is 'aa3'.*did you mean 'aa2'"):
        params.resolve(values, presets)


def test_exponents_are_numbers_and_a_repeated_key_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 4e-4\nb: 1E6\n")
    assert params.read(path) == {"a": 4e-4, "b": 1e6}
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigurationError, match="'a' stands twice"):
        params.read(path)


def test_overrides_on_the_command_line():
    values = params.override(copy.deepcopy(SMALL), "train.optimizer_steps=2000")
    values = params.override(values, "train.optimizer.learning_rate=1e-3")
    assert values["train"]["optimizer_steps"] == 2000
    assert values["train"]["optimizer"]["learning_rate"] == 1e-3
    assert values["train"]["batch"] == SMALL["train"]["batch"]
    with pytest.raises(ConfigurationError, match="KEY=VALUE") as caught:
        params.override(values, "nonsense")
    example = str(caught.value).rsplit(" ", 1)[1]
    assert params.resolve(params.override(SMALL, example), PRESETS).train.optimizer_steps == 2000


@pytest.mark.parametrize(("old", "new"), params.RENAMED.items())
def test_an_old_key_is_refused_and_the_new_one_named(old, new):
    """In params.yaml and in overrides, which take the same way; the form: tests/flows/runs/test_request.py."""
    old, new = old.replace("<name>", "votes"), new.replace("<name>", "votes")
    with pytest.raises(ConfigurationError, match=re.escape(f"{old} is now {new}; rename it (given: ")):
        params.resolve(params.override(SMALL, f"{old}=1"), PRESETS)
    both = {"by": "votes", "views": 2}, {"by": "attempts", "count": 1}
    each = [experiment(select={"answers": a}, evaluations={"votes": {"answers": a}}) for a in both]
    known = {key for e in each for key in params.flatten(e.model_dump(mode="json"))}
    assert new in known
    assert old not in known


def test_what_is_said_of_a_data_set_may_hold_what_is_said_of_a_size():
    presets: dict[str, Any] = {
        "datasets": {"d": {"x": {"of": "d"}}, "e": {}},
        "sizes": {"s": {"x": {"size": 1}}, "t": {"x": {"size": 2}}},
        "versions": {
            "a": {"by_dataset": {"d": {"x": {"v": "d"}, "by_size": {"s": {"x": {"size": 9}}}}}, "by_size": {"s": {}}}
        },
        "finetunings": {"none": {}},
        "budgets": {"own": {}},
    }
    names = {"version": "a", "finetuning": "none", "budget": "own"}
    assert named(presets, names | {"size": "s", "dataset": "d"}, "here")["x"] == {"of": "d", "size": 9, "v": "d"}
    assert named(presets, names | {"size": "t", "dataset": "d"}, "here")["x"] == {"of": "d", "size": 2, "v": "d"}
    assert named(presets, names | {"size": "s", "dataset": "e"}, "here")["x"] == {"size": 1}
    presets["versions"]["a"]["by_dataset"]["d"]["by_size"] = {"u": {}}
    with pytest.raises(ConfigurationError, match=r"versions.a.by_dataset.d.by_size is 'u'; allowed are s, t"):
        named(presets, names | {"size": "s", "dataset": "d"}, "here")


@pytest.mark.parametrize("name", [["v3"], {"v3": 1}, 3, True, "\x1b", "$(x)"])
@pytest.mark.parametrize("kind", ["version", "size", "dataset", "finetuning", "budget"])
def test_a_name_of_another_type_is_refused_by_its_key(kind, name):
    with pytest.raises(ConfigurationError) as caught:
        params.resolve({**SMALL, kind: name}, PRESETS)
    assert kind in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_fifo_in_data_own_is_refused_in_one_line_before_dvc_waits_for_it(workspace):
    (workspace / "data" / "own").mkdir()
    os.mkfifo(workspace / "data" / "own" / "pipe")
    for write in (False, True):
        with pytest.raises(SystemExit, match=r"^error: data/own/pipe is no regular file; remove it$"):
            stage_params.main(write=write)
    recipe = (ROOT / "Makefile").read_text().partition("\nrepro: setup\n")[2].splitlines()
    assert recipe[0].startswith("\tpython -m tasks.params >")
    assert recipe[1] == "\tdvc repro"


def test_a_file_without_the_matrix_of_dvc_is_refused_with_the_block_to_add(workspace, capsys):
    mine = "version: v3\nsize: smol\ndataset: aa1\ntrain: {optimizer_steps: 20000}\n"
    paths.PARAMS.write_text(mine)
    paths.PRESETS.write_text((ROOT / paths.PRESETS).read_text())
    stage_params.main(write=True)  # Without DVC the presets say it.
    before = paths.EXPERIMENT.read_text()
    Path("dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    for given, missing in (
        ("", "predict.checkpoints and predict.evaluations"),
        ("evaluations: [votes]", "predict.checkpoints"),
    ):
        paths.PARAMS.write_text(mine + f"predict: {{{given}}}\n")
        for write in (False, True):
            with pytest.raises(SystemExit) as refused:
                stage_params.main(write=write)
            said, _, block = str(refused.value).partition("\n")
            assert said.startswith(f"error: params.yaml lacks {missing}, which dvc.yaml reads there")
    assert paths.EXPERIMENT.read_text() == before
    paths.PARAMS.write_text(mine + block)
    stage_params.main(write=False)
    assert yaml.safe_load(capsys.readouterr().out)["predict"] == yaml.safe_load(block)["predict"]


def test_what_is_read_twice_is_not_shared(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a: {b: 1}")
    first = params.read(file)
    first["a"]["b"] = 2
    assert params.read(file) == {"a": {"b": 1}}
    file.write_text("a: {b: 3}")
    assert params.read(file) == {"a": {"b": 3}}
