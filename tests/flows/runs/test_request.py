import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from flows.runs import snapshots
from flows.runs.request import EXPECTED, NAMED, Request, names, override_schema
from tasks.common import paths
from tasks.common.params import RENAMED, read, resolve
from tasks.common.presets import ConfigurationError
from tests.conftest import ROOT

NAME = "v3/tiny/aa1-6x6"
PLAIN = dict(zip(("version", "size", "dataset"), NAME.split("/"), strict=True))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "size"),
    [*((version, "tiny") for version in names("versions")), *(("v6", size) for size in names("sizes"))],
)
def test_the_form_accepts_every_value_that_an_experiment_has(version: str, size: str) -> None:
    experiment = resolve({**PLAIN, "version": version, "size": size}, read(paths.PRESETS))
    form = Draft202012Validator(override_schema())
    for key, value in leaves(experiment.model_dump(mode="json")):
        if key not in (*NAMED, "title"):
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")
            assert form.is_valid(f"{key}={text}"), f"{key}={text}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        "train.stepz=1",
        "train.optimizer_steps=many",
        "train.optimizer_steps",
        "train.optimizer.name=adam",
        "seed=3",
        "version=v1",
        "train.network=3",
        " train.batch=8",
        "train.compile=maybe",
        "evaluations.votes=3",
        "evaluations.votes.answers.vews=3",
    ],
)
def test_the_schema_alone_refuses(wrong: str) -> None:
    form = Draft202012Validator(Request.model_json_schema())
    assert form.is_valid({**PLAIN, "overrides": ["train.batch=8"]})
    assert not form.is_valid({**PLAIN, "overrides": [wrong]})


def test_a_refusal_names_what_would_be_right() -> None:
    form = Draft202012Validator(override_schema())
    [error] = form.iter_errors("train.optimizer.name=adam")
    assert error.message == (
        r"'train.optimizer.name=adam' does not match '^train\\.optimizer\\.name=(adamw|muon|normuon)$'"
    )
    for old, new in RENAMED.items():
        [error] = form.iter_errors(f"{old}=1")
        assert error.message == f"'{new}=VALUE' was expected"
    [error] = form.iter_errors("train.stepz=3")
    assert error.message == f"{EXPECTED!r} was expected"


def test_the_schema_refuses_names_that_presets_lack() -> None:
    form = Draft202012Validator(Request.model_json_schema())
    for key in PLAIN:
        assert not form.is_valid({**PLAIN, key: "nothing"})
    assert not form.is_valid({**PLAIN, "seed": -1})
    assert not form.is_valid({**PLAIN, "priority": "highest"})


def test_what_a_schema_cannot_say_is_refused_when_it_is_queued() -> None:
    with pytest.raises(ConfigurationError, match="candidates is 3"):
        Request.of(NAME, 0, ["train.candidates=3"], "normal")
    with pytest.raises(ValueError, match="its own field"):
        Request(**PLAIN, overrides=["seed=3"])


def test_params_mean_what_was_asked() -> None:
    request = Request.of(NAME, 4, ["train.optimizer_steps=20", "train.candidates=2", "train.warmup_steps=2"], "high")
    values = yaml.safe_load(request.text(ROOT))
    experiment = resolve(values, read(paths.PRESETS))
    assert (experiment.name, experiment.seed) == (NAME, 4)
    assert (experiment.train.optimizer_steps, experiment.train.candidates) == (20, 2)
    assert values["predict"] == experiment.predict.model_dump(mode="json")


def test_the_same_experiment_keeps_the_bytes_of_its_params() -> None:
    present = yaml.safe_load((ROOT / paths.PARAMS).read_text())
    name = "/".join(present[key] for key in PLAIN)
    overrides = [f"{key}={json.dumps(value)}" for key, value in present.items() if key not in NAMED]
    assert Request.of(name, present["seed"], overrides, "normal").text(ROOT) == (ROOT / paths.PARAMS).read_text()


def test_the_name_of_a_run_says_what_differs_and_stays_unique() -> None:
    same = Request.of(NAME, 4, ["train.batch=64", "train.log_every=7"], "normal")
    assert same.title == f"{NAME} seed 4"
    few = Request.of(NAME, 0, ["train.optimizer.name=muon", "train.optimizer.learning_rate=0.001"], "normal")
    assert few.title == f"{NAME} +muon lr=1e-3 seed 0"
    many = [f"evaluations.votes-{i}={{extends: votes, steps: {i + 2}}}" for i in range(9)]
    many.append(f"predict.evaluations=[{','.join(f'votes-{i}' for i in range(9))}]")
    one = Request.of(NAME, 0, many, "normal").title
    other = Request.of(NAME, 0, [*many, "train.batch=32"], "normal").title
    third = Request.of(NAME, 0, [*many, "evaluations.votes-8.steps=9"], "normal").title
    assert one.startswith(f"{NAME} +votes-0 +votes-1 ")
    assert "...3 more" in one
    assert len({one, other, third}) == 3
    assert all(len(title) < len(NAME) + 90 for title in (one, other, third))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["predict.checkpoints=[best]"],
        ["prepare.training_subset=data/own/a..b~^:?*[x].lock"],
        [f"evaluations.{'x' * 90}.answers.views=8", "a.lock"],
    ],
)
def test_branches_have_names_that_git_takes(overrides: list[str]) -> None:
    request = Request.model_construct(**PLAIN, seed=0, overrides=overrides, priority="normal")
    name = f"refs/heads/exp/{snapshots.slug(request)}"
    assert subprocess.run(["git", "check-ref-format", name]).returncode == 0
    assert len(name) < 160
