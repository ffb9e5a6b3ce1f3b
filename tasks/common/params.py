"""Resolve params.yaml: names out of presets.yaml, overrides on top, checked once into frozen types.

`python -m tasks.params` prints the resolved experiment; with `--write` it is the stage `params`, whose output every
other stage reads. Presets merge in the order dataset, size, version, so that a version may insist on what it is; what
it insists on for one size or dataset alone stands under its `by_size` or `by_dataset`.
"""

import difflib
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from model.config.base import Frozen
from model.config.experiment import Experiment
from tasks.common import paths

RENAMED = {
    "train.optimizer": "train.optimizer.name",
    "train.learning_rate": "train.optimizer.learning_rate",
    "train.weight_decay": "train.optimizer.weight_decay",
    "train.ema_decay": "train.ema.decay",
    "train.ema_warmup_steps": "train.ema.warmup_steps",
    "train.pixel_noise_rate": "train.pixel_noise.rate",
    "train.pixel_noise_share": "train.pixel_noise.share",
    "train.self_conditioning.zeros_rate": "train.self_conditioning.null_conditioning_rate",
}
"""Old key -> new key. Old keys are refused, in params.yaml, in overrides and in the form, and the new one is named."""
KINDS = {"dataset": "datasets", "size": "sizes", "version": "versions"}


class ConfigurationError(ValueError):
    """A configuration that is refused. The message says which key, what was given and what is allowed."""


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
    merged: dict[str, Any] = dict(presets.get("defaults", {}))
    for kind, section in KINDS.items():
        name, known = params.get(kind), presets.get(section, {})
        if name not in known:
            raise ConfigurationError(
                f"{where}: {kind} is {name!r}; allowed are {', '.join(known)} "
                f"(presets.yaml, {section}){_nearest(str(name), known)}"
            )
        preset = dict(known[name])
        layers = [preset]
        for other in ("size", "dataset"):
            cases = preset.pop(f"by_{other}", {})
            unknown = sorted(set(cases) - set(presets.get(KINDS[other], {})))
            if unknown:
                raise ConfigurationError(
                    f"presets.yaml: {section}.{name}.by_{other} names {unknown[0]!r}; allowed are "
                    f"{', '.join(presets[KINDS[other]])}{_nearest(unknown[0], presets[KINDS[other]])}"
                )
            layers.append(cases.get(params.get(other), {}))
        merged = functools.reduce(merge, layers, merged)
    return check(merge(merged, params), where)


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
        value: Any = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or next(iter(str(error).splitlines()), "nested too deeply")
        raise ConfigurationError(f"override {assignment[:80]!r}: the value is no YAML: {problem}") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return merge(values, value)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `top` over it, section by section."""
    result = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # Twenty times as fast in C.
    """YAML with 4e-4 as a number, as YAML 1.2 and DVC read it, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merged = "tag:yaml.org,2002:merge"  # `<<` brings in keys that may stand here too.
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.tag != merged]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ConfigurationError(f"{node.start_mark.name}: key {twice.pop()!r} stands twice in one section")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read(path: Path) -> dict[str, Any]:
    """The sections of a YAML file. Raises ConfigurationError."""
    try:
        with path.open() as file:
            values = yaml.load(file, Loader=_Loader)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: expected sections, found {values!r}")
    return values


def _explain(error: Any) -> str:
    *section, key = error["loc"] or ("",)
    name = ".".join(str(part) for part in error["loc"])
    fields = _fields(section)
    if name in RENAMED and error["type"] != "missing":
        return f"{name} is now {RENAMED[name]}; rename it (given: {error['input']!r})"
    if error["type"] == "extra_forbidden":
        near = _nearest(str(key), fields)
        return f"unknown key {name} (given: {error['input']!r}); allowed here: {', '.join(fields)}{near}"
    if error["type"] == "missing":
        return f"{name} is missing; neither params.yaml nor the presets give it"
    given = f"is {error['input']!r}; " if not isinstance(error["input"], dict) else ""
    allowed = error["ctx"].get("expected", "") if error["type"] == "literal_error" else ""
    near = _nearest(str(error["input"]), re.findall(r"'([^']+)'", allowed)) if allowed else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name} {given}{message}{near}"


def _fields(section: list[Any]) -> list[str]:
    kind: Any = Experiment
    for part in section:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = kind.model_fields[part].annotation
            if type(None) in get_args(kind):
                kind = get_args(kind)[0]
        elif get_args(kind):
            kind = get_args(kind)[-1]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Frozen) else []


def _nearest(name: str, known: Any) -> str:
    match = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters by dotted name, such as train.network.width; a list as JSON."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return result
