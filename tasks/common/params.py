"""Resolve params.yaml: names out of presets.yaml, overrides on top, checked once into frozen types.

`python -m tasks.params` prints the resolved experiment; with `--write` it is the stage `params`, whose output every
other stage reads.
"""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from model.config.base import Frozen
from model.config.experiment import Experiment
from tasks.common import paths
from tasks.common.documents import DocumentError, parse_yaml, read_yaml_text
from tasks.common.presets import ConfigurationError, extended_evaluations, merge, named, nearest
from tasks.common.titles import title

RENAMED = {
    "train.optimizer": "train.optimizer.name",
    "train.learning_rate": "train.optimizer.learning_rate",
    "train.weight_decay": "train.optimizer.weight_decay",
    "train.ema_decay": "train.ema.decay",
    "train.ema_warmup_steps": "train.ema.warmup_steps",
    "train.pixel_noise_rate": "train.pixel_noise.rate",
    "train.pixel_noise_share": "train.pixel_noise.share",
    "train.self_conditioning.zeros_rate": "train.self_conditioning.null_conditioning_rate",
    "evaluations.<name>.votes": "evaluations.<name>.answers.views",
    "evaluations.<name>.attempts": "evaluations.<name>.answers.count",
    "select.votes": "select.answers.views",
    "select.attempts": "select.answers.count",
}
"""Old key -> new key. Old keys are refused, in params.yaml, in overrides and in the form, and the new one is named."""
VARIABLES = {"train.save_seconds": "ARC_SAVE_SECONDS"}
"""Old key -> the environment variable that replaces it, since it decides no result."""


def load(params: Path = paths.PARAMS, presets: Path = paths.PRESETS) -> Experiment:
    """The experiment of params.yaml. Raises ConfigurationError."""
    return resolve(read(params), read(presets), str(params))


def resolved() -> Experiment:
    """The experiment as the stage `params` wrote it. Raises ConfigurationError."""
    if not paths.EXPERIMENT.exists():
        raise ConfigurationError(f"{paths.EXPERIMENT} is missing; run `dvc repro`, or `python -m tasks.params --write`")
    return check(read(paths.EXPERIMENT), str(paths.EXPERIMENT))


def resolve(params: Mapping[str, Any], presets: Mapping[str, Any], where: str = "params.yaml") -> Experiment:
    """Merge presets and overrides and check the result. Raises ConfigurationError."""
    if "title" in params:
        raise ConfigurationError(f"{where}: title is made from the other keys; remove it")
    base = named(presets, params, where)
    values = extended_evaluations(merge(base, params), where)
    checked = check({"title": "none yet", **values}, where)
    return checked.model_copy(update={"title": title(values, base)})


def check(values: Mapping[str, Any], where: str) -> Experiment:
    """Validate a whole experiment. Raises ConfigurationError naming every wrong key."""
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError("\n".join(f"{where}: {_explain(e)}" for e in error.errors())) from None


def override(values: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """`values` with `key.key=value` (YAML) set. Raises ConfigurationError."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"override {assignment!r} is no KEY=VALUE, such as train.optimizer_steps=2000")
    try:
        value: Any = parse_yaml(text, f"override {assignment[:80]!r}: the value")
    except DocumentError as error:
        raise ConfigurationError(str(error)) from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return merge(values, value)


def read(path: Path) -> dict[str, Any]:
    """The sections of a YAML file. Raises ConfigurationError."""
    try:
        # A copy, since the caller may change it.
        values = copy.deepcopy(_parsed(read_yaml_text(path), str(path)))
    except DocumentError as error:
        raise ConfigurationError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: expected sections, found {str(values)[:40]!r}")
    return values


@lru_cache(maxsize=8)
def _parsed(text: str, where: str) -> Any:
    """Each run of a batch asks for presets.yaml several times, and parsing it takes 20 ms."""
    return parse_yaml(text, where)


def _explain(error: Any) -> str:
    *section, key = _location(error["loc"]) or ("",)
    name = ".".join(str(part) for part in (*section, key))
    fields = _fields(section)
    new = _renamed(name)
    if new and error["type"] != "missing":
        return f"{name} is now {new}; rename it (given: {error['input']!r})"
    if name in VARIABLES:
        return f"{name} is now the environment variable {VARIABLES[name]}; remove it (given: {error['input']!r})"
    if error["type"] == "union_tag_invalid":
        tags = error["ctx"]["expected_tags"]
        tag = error["ctx"]["tag"]
        return f"{name}.by is {tag!r}; allowed are {tags}{nearest(tag, tags.strip(chr(39)).split(chr(39)))}"
    if error["type"] == "extra_forbidden":
        near = nearest(str(key), fields)
        return f"unknown key {name} (given: {error['input']!r}); allowed here: {', '.join(fields)}{near}"
    if error["type"] == "missing":
        return f"{name} is missing; neither params.yaml nor the presets give it"
    value = f"is {error['input']!r}; " if not isinstance(error["input"], dict) else ""
    allowed = error["ctx"].get("expected", "") if error["type"] == "literal_error" else ""
    near = nearest(str(error["input"]), re.findall(r"'([^']+)'", allowed)) if allowed else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name} {value}{message}{near}"


def _renamed(name: str) -> str | None:
    """The key that replaces an old one; None if the key is no old one."""
    for old, new in RENAMED.items():
        match = re.fullmatch(re.escape(old).replace("<name>", "(.+)"), name)
        if match:
            return new.replace("<name>", "".join(match.groups()))
    return None


def _location(parts: Iterable[Any]) -> list[Any]:
    """Where an error is, without the tags of unions that pydantic puts between a section and its key."""
    kind: Any = Experiment
    result = []
    for part in parts:
        tagged = _tagged(kind)
        if part in tagged:
            kind = tagged[part]
            continue
        result.append(part)
        kind = _inside(kind, part)
    return result


def _tagged(kind: Any) -> dict[str, Any]:
    """The types of a union by their tag, the literal `by`."""
    types = [part for part in get_args(kind) if isinstance(part, type) and issubclass(part, Frozen)]
    return {get_args(part.model_fields["by"].annotation)[0]: part for part in types if "by" in part.model_fields}


def _inside(kind: Any, part: Any) -> Any:
    """The type of `part` of a section, the values of a mapping or list included; None if it is unknown."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        return get_args(kind)[0] if type(None) in get_args(kind) else kind
    tagged = _tagged(kind)
    if tagged:
        return next((_inside(k, part) for k in tagged.values() if part in k.model_fields), None)
    return get_args(kind)[-1] if get_args(kind) else None


def _fields(section: list[Any]) -> list[str]:
    kind: Any = Experiment
    for part in section:
        kind = _inside(kind, part)
    types = list(_tagged(kind).values()) or [kind]
    models = [type_ for type_ in types if isinstance(type_, type) and issubclass(type_, Frozen)]
    return list(dict.fromkeys(field for type_ in models for field in type_.model_fields))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters by dotted name, such as train.network.width; a list as JSON."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return result
