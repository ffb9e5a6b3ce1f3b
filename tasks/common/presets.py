"""presets.yaml: named values, merged in the order of LAYERS, each over the ones before.

An entry of a section may say `extends: NAME`, another entry of the same section that it is merged over; `by_size` and
`by_dataset` hold what an entry says of one size or data set alone, and either may hold the other.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

LAYERS = {
    "dataset": "datasets",
    "size": "sizes",
    "version": "versions",
    "finetuning": "finetunings",
    "budget": "budgets",
}
"""Key of params.yaml -> section of presets.yaml, in the order of merging: a version may insist on what it is."""
CASES = ("size", "dataset")
MOVED = {
    "version": {name: f"finetuning: {name}" for name in ("lora", "test-time", "test-time-10", "test-time-1")},
    "size": {"smol-1m": "size: smol, budget: 1m", "mediom-500k": "size: mediom, budget: 500k"},
}
"""Old names -> what stands for them now."""


class ConfigurationError(ValueError):
    """A configuration that is refused. The message says which key, what was given and what is allowed."""


def named(presets: Mapping[str, Any], names: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The defaults with what every name of `names` stands for. Raises ConfigurationError."""
    merged: dict[str, Any] = dict(presets.get("defaults", {}))
    for kind, section in LAYERS.items():
        name = names.get(kind, merged.get(kind))
        entry = _extended(presets, section, name, f"{where}: {kind}", MOVED.get(kind, {}))
        merged = merge(merged, _with_cases(presets, entry, names, f"presets.yaml: {section}.{name}"))
    return extended_evaluations(merged, "presets.yaml")


def _with_cases(
    presets: Mapping[str, Any], entry: Mapping[str, Any], names: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """`entry` with what it says of the size and of the data set of `names`, that of the data set on top."""
    result = {key: value for key, value in entry.items() if key not in [f"by_{case}" for case in CASES]}
    for case in CASES:
        values = entry.get(f"by_{case}", {})
        for case_name in values:
            _known(presets, LAYERS[case], case_name, f"{where}.by_{case}")
        chosen = next((value for case_name, value in values.items() if case_name == names.get(case)), None)
        if chosen:
            result = merge(result, _with_cases(presets, chosen, names, f"{where}.by_{case}.{names.get(case)}"))
    return result


def extended_evaluations(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` with what each evaluation `extends`, `select` included. Raises ConfigurationError."""
    result = dict(values)
    if isinstance(evaluations := values.get("evaluations"), Mapping):
        section = {"evaluations": evaluations}
        result["evaluations"] = {
            name: _extended(section, "evaluations", name, f"{where}: evaluations.{name}") for name in evaluations
        }
        if isinstance(select := values.get("select"), Mapping):
            section = {"evaluations": {**evaluations, "select": select}}
            result["select"] = _extended(section, "evaluations", "select", f"{where}: select")
    return result


def parse_name(name: str) -> dict[str, str]:
    """The keys of params.yaml that an experiment's name stands for. Raises ConfigurationError."""
    parts = name.split("/")
    if len(parts) != 3:
        raise ConfigurationError(
            f"experiment {name!r} is no VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET, such as v3/smol/aa1"
        )
    version, _, finetuning = parts[0].partition("+")
    size, _, budget = parts[1].partition("+")
    return {
        "version": version,
        "size": size,
        "dataset": parts[2],
        "finetuning": finetuning or "none",
        "budget": budget or "own",
    }


def _known(
    presets: Mapping[str, Any], section: str, name: Any, where: str, moved: Mapping[str, str] | None = None
) -> dict[str, Any]:
    entries = presets.get(section, {})
    if isinstance(name, str) and name in entries:
        return dict(entries[name] or {})
    if moved and isinstance(name, str) and name in moved:
        raise ConfigurationError(f"{where} {name!r} is now {moved[name]}")
    raise ConfigurationError(
        f"{where} is {name!r}; allowed are {', '.join(entries)} (presets.yaml, {section}){nearest(str(name), entries)}"
    )


def _extended(
    presets: Mapping[str, Any], section: str, name: Any, where: str, moved: Mapping[str, str] | None = None
) -> dict[str, Any]:
    chain: list[dict[str, Any]] = []
    names: list[str] = []
    while name is not None:
        if name in names:
            raise ConfigurationError(f"presets.yaml: {section}: {' extends '.join([*names, name])}, which is a circle")
        entry = _known(presets, section, name, where, moved)
        where = f"presets.yaml: {section}.{name}.extends"
        names.append(name)
        chain.append(entry)
        name = entry.pop("extends", None)
    result: dict[str, Any] = {}
    for entry in reversed(chain):
        result = merge(result, entry)
    return result


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `top` over it, section by section; a section with another `by` replaces the whole of it."""
    result = dict(base)
    for key, value in top.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and value.get("by") in (None, below.get("by")):
            result[key] = merge(below, value)
        else:
            result[key] = value
    return result


def nearest(name: str, candidates: Iterable[Any]) -> str:
    """'; did you mean ...?' for the closest of the candidates, or ''."""
    match = difflib.get_close_matches(name, [str(k) for k in candidates], n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
