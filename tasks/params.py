"""Stage `params`: resolves params.yaml to data/experiment.yaml, and lists what differs from the presets.

Without `--write` it prints the result.
"""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
import yaml

from model.config.experiment import Experiment
from model.storage.atomic import write_json, write_text
from tasks.common import paths
from tasks.common.documents import DocumentError, check_folder
from tasks.common.params import flatten, load, read, resolve
from tasks.common.presets import LAYERS, ConfigurationError


def main(
    write: Annotated[bool, typer.Option(help="Write data/experiment.yaml instead of printing.")] = False,
) -> None:
    """Print the resolved experiment of params.yaml, or write it for the stages."""
    try:
        check_folder(paths.OWN)  # DVC hashes it before any stage that reads it, and would wait for a FIFO for ever.
        experiment = load()
        if paths.STAGES.exists():  # Without DVC, as in `tasks.studies.run_stages`, nothing reads them there.
            check_matrix(read(paths.PARAMS), experiment)
    except (ConfigurationError, DocumentError) as error:
        raise SystemExit(f"error: {error}") from None
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
    if write:
        paths.EXPERIMENT.parent.mkdir(exist_ok=True)
        write_text(paths.EXPERIMENT, text)
        write_json(paths.DIFFERENCES, differences(experiment, read(paths.PRESETS)))
    else:
        sys.stdout.write(text)


def check_matrix(params: Mapping[str, Any], experiment: Experiment) -> None:
    """Refuse a params.yaml without the lists that dvc.yaml reads from it, not from the presets.

    Raises ConfigurationError.
    """
    predict = params.get("predict") or {}
    needed = experiment.predict.model_dump(mode="json", include={"checkpoints", "evaluations"})
    missing = [f"predict.{key}" for key in needed if key not in predict]
    if missing:
        block = "\n".join(f"  {key}: [{', '.join(names)}]" for key, names in needed.items())
        raise ConfigurationError(
            f"{paths.PARAMS} lacks {' and '.join(missing)}, which {paths.STAGES} reads there; have this in it:\n"
            f"predict:\n{block}"
        )


def differences(experiment: Experiment, presets: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every parameter that differs from the presets of the experiment's name: key, value, value of the presets."""
    names = experiment.model_dump(include=set(LAYERS))
    values = flatten(experiment.model_dump(mode="json"))
    preset_values = flatten(resolve(names, presets).model_dump(mode="json"))
    return [
        (key, values.get(key, "–"), preset_values.get(key, "–"))
        for key in {**values, **preset_values}
        if values.get(key) != preset_values.get(key) and key not in ("seed", "title")
    ]


if __name__ == "__main__":
    typer.run(main)
