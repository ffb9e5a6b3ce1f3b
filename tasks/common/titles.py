"""Titles: the name of an experiment with what differs from the presets of that name, shortest first.

`v3/smol/aa1 +muon lr=1e-3 ...5 more` is no v3, and its title says so everywhere: on the page, in tables, in MLflow and
in Prefect. The name alone stays the identity of an experiment.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from model.config.experiment import experiment_name
from tasks.common.presets import LAYERS

LONGEST = 32
"""Characters of a title that tell differences; what does not fit is counted."""
SHORT = {
    "train.optimizer.name": "",
    "train.evaluated_weights": "",
    "train.optimizer.learning_rate": "lr",
    "train.optimizer_steps": "updates",
    "train.warmup_steps": "warmup",
    "train.ema.decay": "ema.decay",
    "train.network.dropout": "dropout",
}
"""Keys that have a shorter name in titles; '' for those whose value tells the key."""
SILENT = (*LAYERS, "title", "seed", "predict", "report", "publish", "watch", "train.log_every", "train.save_seconds")
"""What changes no score of a given checkpoint and evaluation, or stands in the name already. Only kept results have
save_seconds."""

AFTERWARDS = ("select", "evaluations", "score")
"""Sections that a training does not depend on."""


def title(values: Mapping[str, Any], base: Mapping[str, Any], longest: int = LONGEST) -> str:
    """The title of an experiment: `values` are its sections, `base` those of its presets alone."""
    name = experiment_name(**{kind: str(values.get(kind, base.get(kind))) for kind in LAYERS})
    return " ".join(filter(None, [name, shortened(changes(values, base), longest)]))


def shortened(texts: list[str], longest: int) -> str:
    """As many texts as fit, separated by spaces, and '...N more' if any are left out; at least one is shown."""
    shown = 1
    while shown < len(texts) and len(" ".join(texts[: shown + 1])) <= longest:
        shown += 1
    rest = len(texts) - shown
    return " ".join([*texts[:shown], *([f"...{rest} more"] if rest > 0 else [])])


def changes(values: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """What differs, shortest first: `+muon`, `lr=1e-3`, `+NAME` for a section that the presets lack.

    What differs after the training, in AFTERWARDS, comes last.

    A key that only the presets have is no difference: an older result may lack it. Neither is an evaluation that is not
    asked for.
    """
    keys = {key for side in (values, base) for key, _ in leaves(side)}
    predict = values.get("predict", base.get("predict"))
    requested = predict.get("evaluations", ()) if isinstance(predict, Mapping) else ()
    differing = []
    for key, value in _different(values, base, ""):
        section, _, rest = key.partition(".")
        if any(key == silent or key.startswith(f"{silent}.") for silent in SILENT):
            continue
        if section == "evaluations" and rest.split(".")[0] not in (requested or ()):
            continue
        differing.append((section in AFTERWARDS, _text(key, value, keys)))
    return [text for _, text in sorted(differing, key=lambda item: (item[0], len(item[1]), item[1]))]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no section, by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _different(values: Mapping[str, Any], base: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        other = base.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _different(value, other, f"{prefix}{key}.")
        elif value != other and not (isinstance(value, list | tuple) and list(value) == other):
            yield f"{prefix}{key}", value


def _text(key: str, value: Any, keys: set[str]) -> str:
    short = SHORT.get(key)
    if short == "":
        return f"+{value}"
    if short is None:
        parts = key.split(".")
        ends = (".".join(parts[-i:]) for i in range(1, len(parts) + 1))
        short = next(end for end in ends if not any(k != key and f".{k}".endswith(f".{end}") for k in keys))
    return f"+{short}" if isinstance(value, Mapping) else f"{short}={written(value)}"


def written(value: Any) -> str:
    """A value as params.yaml would hold it, numbers as short as possible: 1e-3, 0.05, [a,b]."""
    if isinstance(value, float):
        plain = f"{value:.15g}"
        mantissa, _, exponent = f"{value:.14e}".partition("e")
        power = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return power if len(power) < len(plain) else plain
    if isinstance(value, list | tuple):
        return f"[{','.join(written(part) for part in value)}]"
    if isinstance(value, str) and value:
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
