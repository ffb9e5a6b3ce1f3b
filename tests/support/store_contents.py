"""Everything in an MLflow store except ids and the times of writing, for comparing two stores."""

import hashlib
from pathlib import Path
from typing import Any

from tests.support.published_experiment import models, runs

IDS = {"mlflow.parentRunId", "arc.model"}
"""Tags whose values are ids."""


def contents(where: Any) -> dict[str, Any]:
    """Runs, models and versions by name; parents, inputs and outputs are named instead of identified."""
    names = {run.info.run_id: run.info.run_name for run in runs(where)}
    names |= {model.model_id: model.name for model in models(where)}
    assert len(set(names.values())) == len(names), "two of one name"
    return {
        "runs": {run.info.run_name: _run(where, run.info.run_id, names) for run in runs(where)},
        "models": {
            model.name: (
                model.status.name,
                names[model.source_run_id],
                _tags(model.tags, names),
                model.params,
                sorted((m.key, m.step, m.value, names[m.run_id]) for m in model.metrics),
                _files(Path(model.artifact_location), "MLmodel"),  # It has ids and times.
            )
            for model in models(where)
        },
        "versions": {
            (version.name, version.version): (names[version.run_id], _tags(version.tags, names))
            for version in where.search_model_versions("")
        },
        "aliases": {model.name: model.aliases for model in where.search_registered_models()},
    }


def _run(where: Any, run_id: str, names: dict[str, str]) -> tuple[Any, ...]:
    run = where.get_run(run_id)
    parent = "mlflow.parentRunId" not in run.data.tags
    curves = {
        name: sorted((point.step, point.value) for point in where.get_metric_history(run_id, name))
        for name in run.data.metrics
    }
    return (
        run.info.status,
        (run.info.start_time, run.info.end_time) if parent else (),  # Of an evaluation they are those of publishing.
        _tags(run.data.tags, names),
        run.data.params,
        curves,
        [(used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs],
        [names[used.model_id] for used in run.inputs.model_inputs],
        sorted((names[made.model_id], made.step) for made in run.outputs.model_outputs) if run.outputs else [],
        _files(Path(run.info.artifact_uri)),
    )


def _tags(tags: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    return {name: names[value] if name in IDS else value for name, value in tags.items()}


def _files(folder: Path, *without: str) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in without)
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
