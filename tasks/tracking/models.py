"""Checkpoints as MLflow models: logged with a copy of their weights and code, and registered."""

import importlib.metadata
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "scipy", "rich")
"""What a loaded model imports."""


@dataclass(frozen=True)
class Model:
    """A checkpoint as an MLflow model of the kind "models from code"."""

    name: str
    step: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    registered: str
    """Name of the registered model of which it becomes a version."""
    script: Path
    """The file that MLflow executes to load it."""
    code: Sequence[Path]
    """Packages that the script imports."""
    files: Mapping[str, Path]
    """Artifacts by the names that the script uses."""
    texts: Mapping[str, tuple[str, str]]
    """Artifacts that are no files yet: name in the script -> name of the file, contents."""
    example: Mapping[str, Any]
    """An input."""


def log(client: Any, experiment: str, run: str, model: Model, tags: Mapping[str, str]) -> str:
    """Log the model with a copy of its files, and return its id."""
    logged = client.create_logged_model(
        experiment, model.name, run, {**model.tags, **tags}, dict(model.params), "checkpoint"
    )
    with tempfile.TemporaryDirectory() as scratch:
        written = {name: Path(scratch) / file for name, (file, _) in model.texts.items()}
        for name, (_, contents) in model.texts.items():
            written[name].write_text(contents)
        place = Path(scratch) / "model"
        with warnings.catch_warnings(action="ignore"):  # It warns of type hints, also of its own.
            import mlflow.pyfunc
            from mlflow.models import Model as Described

            mlflow.pyfunc.save_model(
                str(place),
                mlflow_model=Described(run_id=run, model_id=logged.model_id),
                python_model=str(model.script),
                code_paths=[str(path) for path in model.code],
                artifacts={name: str(path.absolute()) for name, path in {**model.files, **written}.items()},
                signature=signature(),
                input_example=dict(model.example),
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES],
            )
        client.log_model_artifacts(logged.model_id, str(place))
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def signature() -> Any:
    """Of every model: official JSON in, a row for each test input out."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Schema

    grid = Array(Array(DataType.long))
    columns: dict[str, Any] = {"task": DataType.string, "test": DataType.long}
    for number in (1, 2):
        columns[f"attempt_{number}"] = grid
        columns[f"size_{number}"] = Array(DataType.long)
        columns[f"votes_{number}"] = DataType.long
    columns["proposals"] = DataType.long
    # Task ids are keys, which MLflow's types cannot describe; the model checks the tasks itself.
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "tasks")]),
        outputs=Schema([ColSpec(kind, name) for name, kind in columns.items()]),
    )


def register(client: Any, model: Model, model_id: str, run: str, tags: Mapping[str, str]) -> str:
    """Make the logged model a version of its registered model, and return the version."""
    from mlflow.exceptions import RESOURCE_ALREADY_EXISTS, ErrorCode, MlflowException

    try:
        client.create_registered_model(model.registered)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
    source = f"models:/{model_id}"
    version = client.create_model_version(
        model.registered, source, run, tags={**model.tags, **tags, "arc.model": model_id}, model_id=model_id
    )
    return str(version.version)
