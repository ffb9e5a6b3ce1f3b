"""Which version of a registered model is `best`: the alias moves only where a paired comparison shows an increase."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.scoring.statistics import paired_difference
from tasks.common.documents import parse_json

ALIAS = "best"
SERVED = "arc.evaluation"
"""Tag of a version: the evaluation by which it answers and is compared."""
RESAMPLES = 10_000
CHECKPOINT_PREFERENCE = ("best", "final", "late", "halfway")
"""Which of them stands for a result, the first that it has."""


def consider(client: Any, name: str, key: str, key_tag: str) -> str:
    """Move the alias to the best checkpoint of the result `key` if it is better; returns what was done.

    A kept result may have no other checkpoint than its final one. The first version takes the alias. One that is
    compared over other tasks or by another evaluation does not.
    """
    versions = client.search_model_versions(f"name = '{name}' and tags.`{key_tag}` = '{key}'")
    new = min(versions, key=lambda version: CHECKPOINT_PREFERENCE.index(version.tags["arc.checkpoint"]))
    current = current_version(client, name)
    if current is None:
        client.set_registered_model_alias(name, ALIAS, new.version)
        return f"{name}@{ALIAS} is version {new.version}, the first"
    stays = f"{name}@{ALIAS} stays version {current.version}"
    if current.tags.get(SERVED) != new.tags[SERVED] or key_tag not in current.tags:
        return f"{stays}: version {new.version} answers by another evaluation"
    before, after = (solved(client, version, key_tag) for version in (current, new))
    if not before or before.keys() != after.keys():
        return f"{stays}: there are no scores of both over the same tasks"
    tasks = sorted(before)
    difference = paired_difference(
        np.array([before[task] for task in tasks]), np.array([after[task] for task in tasks]), RESAMPLES
    )
    shown = f"difference {100 * difference.mean:+.1f} [{100 * difference.low:.1f}–{100 * difference.high:.1f}]"
    if not (difference.shown and difference.mean > 0):
        return f"{stays}: version {new.version} is not shown to be better, {shown}"
    client.set_registered_model_alias(name, ALIAS, new.version)
    return f"{name}@{ALIAS} moves from version {current.version} to {new.version}: {shown}"


def current_version(client: Any, name: str) -> Any:
    """The version with the alias, or None."""
    number = client.get_registered_model(name).aliases.get(ALIAS)
    return client.get_model_version(name, number) if number else None


def solved(client: Any, version: Any, key_tag: str) -> Mapping[str, float]:
    """Share of each task's test grids that a version solves; {} if its score is not in the store."""
    import mlflow

    required_tags = {key_tag: version.tags[key_tag], "arc.run": "evaluation"}
    required_tags |= {tag: version.tags[tag] for tag in ("arc.checkpoint", SERVED)}
    experiments: Sequence[str] = [experiment.experiment_id for experiment in client.search_experiments()]
    query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in required_tags.items())
    runs = client.search_runs(experiments, query, max_results=1)
    if not runs:
        return {}
    address = f"runs:/{runs[0].info.run_id}/score.json"
    score = parse_json(mlflow.artifacts.load_text(address).encode(), address)
    return {task: float(np.mean([grid["solved"] for grid in grids])) for task, grids in score["tasks"].items()}
