"""Titles say what an experiment changes of what its name stands for."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common import params, paths
from tasks.common.documents import parse_yaml
from tasks.common.presets import ConfigurationError, merge, named, parse_name
from tasks.common.titles import changes, shortened, title, written
from tests.conftest import ROOT, presets

V3: dict[str, Any] = {**parse_name("v3/smol/aa1"), "seed": 0}


def titled(**given: Any) -> str:
    return params.resolve(merge(V3, given), presets()).title


def test_a_title_is_the_name_where_nothing_differs() -> None:
    assert titled() == "v3/smol/aa1"
    assert titled(seed=7, report={"tasks_drawn": 2}, train={"log_every": 7, "batch": 128}) == "v3/smol/aa1"
    assert titled(finetuning="lora", budget="1m") == "v3+lora/smol+1m/aa1"


def test_what_differs_follows_shortest_first_and_the_rest_is_counted() -> None:
    muon = {"optimizer": {"name": "muon", "learning_rate": 0.001}}
    assert titled(train=muon) == "v3/smol/aa1 +muon lr=1e-3"
    dropout = {"network": {"dropout": 0.0, "embedding_dropout": 0.0}}
    assert titled(train={**muon, **dropout}) == "v3/smol/aa1 +muon lr=1e-3 dropout=0 ...1 more"
    assert titled(train={"evaluated_weights": "ema"}) == "v3/smol/aa1 +ema"
    assert (
        titled(train={"early_stop": {"every": 500, "patience": 500, "improvement": 0.0}}) == "v3/smol/aa1 +early_stop"
    )


def test_only_evaluations_that_are_asked_for_count_and_a_new_one_counts_once() -> None:
    new = {"votes-argmax": {"extends": "votes", "sampler": "argmax"}}
    assert titled(evaluations=new) == "v3/smol/aa1"
    assert titled(evaluations=new, predict={"evaluations": ["votes-argmax"]}) == "v3/smol/aa1 +votes-argmax"
    assert titled(evaluations={"votes": {"steps": 16}}) == "v3/smol/aa1 votes.steps=16"
    assert titled(select={"steps": 16}) == "v3/smol/aa1 select.steps=16"


def test_what_differs_after_the_training_comes_last_however_short() -> None:
    given = {"select": {"steps": 3}, "train": {"network": {"embedding_dropout": 0.25}}, "score": {"views": 4}}
    assert titled(**given) == "v3/smol/aa1 embedding_dropout=0.25 ...2 more"


def test_short_keys_are_unambiguous() -> None:
    """Every leaf, changed alone, has a text that no other leaf has."""
    base = named(presets(), V3, "v3")
    texts = set()
    keys = [key for key, _ in _leaves(base) if key.partition(".")[0] in ("train", "augment", "prepare", "fetch")]
    for key in keys:
        changed: Any = "changed"
        for part in reversed(key.split(".")):
            changed = {part: changed}
        texts |= set(changes(merge(base, changed), base))
    silent, by_value = 1, 2  # log_every; the names of optimizers and weights tell their key.
    assert len(texts - {"+changed"}) == len(keys) - silent - by_value


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, dict):
        return [(prefix.removesuffix("."), values)]
    return [leaf for key, value in values.items() for leaf in _leaves(value, f"{prefix}{key}.")]


def test_the_default_experiment_is_not_called_by_its_name_alone() -> None:
    given = params.read(ROOT / paths.PARAMS)
    experiment = params.resolve(given, presets())
    plain = params.resolve({**parse_name(experiment.name), "seed": given["seed"]}, presets())
    assert experiment.train == plain.train or experiment.title != experiment.name


def test_a_title_cannot_be_given() -> None:
    with pytest.raises(ConfigurationError, match="title is made from the other keys; remove it"):
        titled(title="v3/smol/aa1")


def test_kept_results_without_newer_keys_have_a_title() -> None:
    values = params.read(ROOT / "docs/baselines/v3-muon-smol-aa1/experiment.yaml")
    found = title(values, named(presets(), values, "kept"))
    assert found == titled(**params.read(ROOT / "docs/baselines/v3-muon-smol-aa1/params.yaml"))
    assert found.startswith("v3/smol/aa1 +ema +muon lr=1e-3 dropout=0 ...")


@given(st.lists(st.text("ab=", min_size=1, max_size=12), min_size=1, max_size=9), st.integers(1, 60))
def test_every_difference_is_shown_or_counted(texts: list[str], longest: int) -> None:
    shown, _, rest = shortened(texts, longest).partition("...")
    assert len(shown.split()) + int(rest.removesuffix(" more") or 0) == len(texts)
    assert shown.split() == texts[: len(shown.split())]
    assert len(shown.strip()) <= longest or len(shown.split()) == 1


@given(st.floats(0, 1e9, allow_nan=False) | st.integers(0, 10**9) | st.booleans() | st.none())
def test_values_are_written_so_that_they_read_the_same(value: Any) -> None:
    read: Any = parse_yaml(written(value), "a value")
    assert read == value or math.isclose(read, value, rel_tol=1e-13)


def test_the_stage_writes_the_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import params as stage

    monkeypatch.chdir(tmp_path)
    for name in (paths.PARAMS, paths.PRESETS):
        (tmp_path / name).write_text((ROOT / name).read_text())
    stage.main(write=True)
    assert params.resolved().title == params.load().title
