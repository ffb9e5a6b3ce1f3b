"""A request for one experiment. Prefect generates its form from this type and validates input against it."""

import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flows.runs.places import FlowError
from model.config.experiment import Experiment, experiment_name
from model.storage.digests import digest_text
from tasks.common import paths
from tasks.common.params import RENAMED, override, read, resolve
from tasks.common.presets import ConfigurationError, extended_evaluations, merge, named, parse_name
from tasks.common.titles import changes, shortened

Priority = Literal["high", "normal"]
Machine = Literal["any", "gpu", "cpu"]
LONGEST_TITLE = 60
"""Maximum number of characters that differences from the presets take in the name of a run."""
NAMED = ("version", "size", "dataset", "finetuning", "budget", "seed")
"""Fields of the request, which overrides may not set."""


def names(section: str) -> list[str]:
    """The names that presets.yaml offers under `section`."""
    return list(read(paths.PRESETS)[section])


def override_schema() -> dict[str, Any]:
    """JSON Schema of every override that a form may accept: the key exists, the value has its type.

    In small parts, since a form shows the part that refuses: of a known key its own values only.
    """
    values: dict[str, list[str]] = {}
    for key, value in _knobs(Experiment, ""):
        if key not in (*NAMED, "title"):
            values.setdefault(_literally(key).replace(_ANY, "[A-Za-z0-9_-]+"), []).append(value)
    renamed = {_literally(old): new for old, new in RENAMED.items()}
    unknown = {"not": {"pattern": f"^({'|'.join([*values, *renamed])})="}}
    parts: list[dict[str, Any]] = [{"if": unknown, "then": {"const": EXPECTED}}]
    parts += [{"if": {"pattern": f"^{old}="}, "then": {"const": f"{new}=VALUE"}} for old, new in renamed.items()]
    for key, alternatives in values.items():
        parts.append({"if": {"pattern": f"^{key}="}, "then": {"pattern": f"^{key}=({'|'.join(alternatives)})$"}})
    # As a condition that always holds, since a page draws other fields for a bare allOf.
    return {"type": "string", "if": {}, "then": {"allOf": parts}}


EXPECTED = "KEY=VALUE, with a key that `python -m tasks.params` prints"
"""What a form says to anything else: it shows the one value that would have been right."""
_ANY = "<name>"
_VALUES = {
    bool: "true|false",
    int: "[0-9]+",
    float: r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?",
    str: ".*",
}


def _literally(text: str) -> str:
    return re.escape(text).replace(r"\-", "-")  # Browsers refuse an escaped hyphen.


def _knobs(kind: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in kind.model_fields.items():
        yield from _knob(field.annotation, prefix + name)


def _knob(kind: Any, key: str) -> Iterator[tuple[str, str]]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _knob(get_args(kind)[0], key)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from _knobs(kind, f"{key}.")
    elif origin is dict:
        yield from _knob(get_args(kind)[1], f"{key}.{_ANY}")
    elif origin is Literal:
        yield key, "|".join(_literally(str(value)) for value in get_args(kind))
    elif origin in (Union, types.UnionType):
        for part in get_args(kind):
            yield from [(key, "null")] if part is type(None) else _knob(part, key)
    elif origin in (tuple, list):
        yield key, r"\[.*\]"
    else:
        yield key, _VALUES.get(kind, ".*")


class Request(BaseModel):
    """One experiment for the queue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[
        str,
        Field(
            description="What is trained: the mechanisms of a version of the lab notes, or ours.",
            json_schema_extra=lambda schema: schema.update(enum=names("versions")),
        ),
    ]
    size: Annotated[
        str,
        Field(
            description="Width, depth and batch.",
            json_schema_extra=lambda schema: schema.update(enum=names("sizes")),
        ),
    ]
    dataset: Annotated[
        str,
        Field(
            description="Which ARC tasks.",
            json_schema_extra=lambda schema: schema.update(enum=names("datasets")),
        ),
    ]
    finetuning: Annotated[
        str,
        Field(
            description="How the checkpoint data/own/start is trained on; none trains from the beginning.",
            json_schema_extra=lambda schema: schema.update(enum=names("finetunings")),
        ),
    ] = "none"
    budget: Annotated[
        str,
        Field(
            description="Number of updates; own is what version and size say.",
            json_schema_extra=lambda schema: schema.update(enum=names("budgets")),
        ),
    ] = "own"
    seed: Annotated[int, Field(ge=0, lt=2**31, description="Of data order, initialisation, noise and sampling.")] = 0
    overrides: Annotated[
        list[str],
        Field(
            description="KEY=VALUE each, such as train.optimizer_steps=2000; "
            "`python -m tasks.params` prints every key.",
            json_schema_extra=lambda schema: schema.update(items=override_schema()),
        ),
    ] = []
    priority: Annotated[Priority, Field(description="high runs before every normal one; no run is interrupted.")] = (
        "normal"
    )
    machine: Annotated[
        Machine, Field(description="Kind of machine that may run it: gpu has one, cpu has none or need not use it.")
    ] = "any"

    @model_validator(mode="after")
    def _resolves(self) -> Self:
        resolve(self.params(), read(paths.PRESETS), "the request")
        return self

    @classmethod
    def of(cls, name: str, seed: int, overrides: list[str], priority: Priority) -> Self:
        """The request for an experiment by its name, see `parse_name`. Raises ConfigurationError."""
        chosen = {**parse_name(name), "seed": seed}
        resolve({**chosen, **_set({}, overrides)}, read(paths.PRESETS), name)
        return cls.model_validate({**chosen, "overrides": overrides, "priority": priority})

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return experiment_name(self.version, self.size, self.dataset, self.finetuning, self.budget)

    @property
    def title(self) -> str:
        """Name of the run: experiment, what differs from its presets, and seed.

        Where some of that does not fit, a digest of the overrides tells such runs apart.
        """
        presets = read(paths.PRESETS)
        base = named(presets, self.params(), self.experiment)
        texts = changes(extended_evaluations(merge(base, self.params()), self.experiment), base)
        chosen = shortened(texts, LONGEST_TITLE) if texts else ""
        if chosen != " ".join(texts):
            chosen = f"{chosen} {digest_text(' '.join(sorted(self.overrides)))[:6]}"
        return " ".join(filter(None, [self.experiment, chosen, f"seed {self.seed}"]))

    def params(self) -> dict[str, Any]:
        """The values of params.yaml."""
        chosen = {name: getattr(self, name) for name in NAMED}
        values = _set(chosen, self.overrides)
        if {name: values[name] for name in NAMED} != chosen:
            raise ConfigurationError(f"the overrides {self.overrides} set one of {', '.join(NAMED)}; use its own field")
        return values

    def text(self, folder: Path) -> str:
        """The params.yaml of this request in the checkout `folder`; unchanged if the present file is equivalent."""
        presets = read(folder / paths.PRESETS)
        config = resolve(self.params(), presets, self.title)
        present = folder / paths.PARAMS
        try:
            if resolve(read(present), presets) == config:
                return present.read_text()
        except ConfigurationError:
            pass  # The present file may be invalid, since it is replaced.
        # dvc.yaml reads its matrix from `predict`.
        values = {**self.params(), "predict": config.predict.model_dump(mode="json")}
        return f"# {self.title}, as it was submitted.\n{yaml.safe_dump(values, sort_keys=False)}"


def _set(values: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    result = dict(values)
    for assignment in overrides:
        result = override(result, assignment)
    return result


def parse(parameters: Mapping[str, Any]) -> Request:
    """Parse the request in a flow run's parameters. Raises FlowError."""
    try:
        return Request.model_validate(parameters.get("request"))
    except ValidationError as error:
        problems = "; ".join(part["msg"].removeprefix("Value error, ") for part in error.errors())
        raise FlowError(f"refused: {problems}") from None
