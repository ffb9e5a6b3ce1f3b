"""Study files: experiments that are run alike, so that they can be compared."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.config.experiment import Experiment
from tasks.common import params, paths
from tasks.common.presets import ConfigurationError, merge, nearest, parse_name

KEYS = {"common", "seeds", "final_only", "experiments"}
ROOT = Path(__file__).parents[2]


class Member(NamedTuple):
    """One experiment of a study, with one seed."""

    label: str
    """VERSION-SIZE-DATASET or the label of the study file, with -sSEED for another seed than 0."""
    values: dict[str, Any]
    """What params.yaml would say."""
    experiment: Experiment
    final_only: frozenset[str]
    """Evaluations that only the final checkpoint is asked."""


def read_study(path: Path, names: Sequence[str] = ()) -> list[Member]:
    """The experiments of a study file in its order, or those of `names` in that order. Raises ConfigurationError.

    The file has `experiments` and, if wanted, `common` (keys for each of them), `seeds` ([0] if absent) and
    `final_only` (names of evaluations). An experiment is VERSION/SIZE/DATASET: keys over its presets; or, so that
    several may be of one name, LABEL: such keys and `name`, which is VERSION/SIZE/DATASET.
    """
    study = params.read(path)
    if unknown := sorted(set(study) - KEYS):
        raise ConfigurationError(f"{path}: {unknown[0]}: unknown; allowed are {', '.join(sorted(KEYS))}")
    experiments, common = _mapping(study, "experiments", path), _mapping(study, "common", path)
    seeds = study.get("seeds", [0])
    if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigurationError(f"{path}: seeds is {seeds!r}; expected a list of whole numbers, such as [0, 1]")
    for name in names:
        if name not in experiments:
            raise ConfigurationError(f"{path} has no experiment {name!r}{nearest(name, experiments)}")
    presets, final_only = params.read(ROOT / paths.PRESETS), frozenset(study.get("final_only") or [])
    members: list[Member] = []
    for name in names or experiments:
        own = _mapping(experiments, name, path)
        label, chosen = _label(name, own, path), parse_name(str(own.get("name", name)))
        own = {key: value for key, value in own.items() if key != "name"}
        for seed in seeds:
            values = merge({**chosen, "seed": seed, **common}, own)
            experiment = params.resolve(values, presets, f"{path}: {name}")
            members.append(Member(label + (f"-s{seed}" if seed else ""), values, experiment, final_only))
    _check_distinct(members, path)
    requested = {evaluation for member in members for evaluation in member.experiment.predict.evaluations}
    if not names and (unknown := sorted(final_only - requested)):
        raise ConfigurationError(f"{path}: final_only: {unknown[0]} is no evaluation of these experiments")
    return members


def _label(name: str, own: Mapping[str, Any], path: Path) -> str:
    """What the folder of a kept experiment is called. Raises ConfigurationError."""
    if "name" not in own:
        return name.replace("/", "-")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise ConfigurationError(
            f"{path}: label {name!r} names a folder; allowed are letters, digits and . _ + -, with a letter or digit "
            "first"
        )
    return name


def _check_distinct(members: Sequence[Member], path: Path) -> None:
    """Raise ConfigurationError where two members would share a folder, or are the same experiment."""
    labels: set[str] = set()
    label_by_experiment: dict[str, str] = {}
    for member in members:
        if member.label in labels:
            raise ConfigurationError(f"{path}: two experiments are called {member.label}; give one another label")
        labels.add(member.label)
        same = label_by_experiment.setdefault(member.experiment.model_dump_json(), member.label)
        if same != member.label:
            raise ConfigurationError(f"{path}: {same} and {member.label} are the same experiment; leave one out")


def _mapping(values: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path}: {key} is {value!r}; expected keys and values")
    return value
