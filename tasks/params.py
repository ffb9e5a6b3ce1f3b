"""Stage `params`: resolves params.yaml to data/experiment.yaml; without `--write` it prints the result."""

import sys
from typing import Annotated

import typer
import yaml

from model.storage.atomic import write_text
from tasks.common import paths
from tasks.common.params import load
from tasks.common.presets import ConfigurationError


def main(
    write: Annotated[bool, typer.Option(help="Write data/experiment.yaml instead of printing.")] = False,
) -> None:
    """Print the resolved experiment of params.yaml, or write it for the stages."""
    try:
        experiment = load()
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
    if write:
        paths.EXPERIMENT.parent.mkdir(exist_ok=True)
        write_text(paths.EXPERIMENT, text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    typer.run(main)
