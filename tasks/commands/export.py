"""`arc export CHECKPOINT --to STEM`: a checkpoint to hand on, a quarter of the size.

It has the weights that evaluations use alone, averaged or raw, in bfloat16 where a GPU multiplies in bfloat16 anyway.
It cannot be asked for the other weights; fine-tuning can start from it.
"""

from pathlib import Path
from typing import Annotated

import typer

from model.storage import checkpoints
from tasks.common.stage import StageError, stage


@stage("export")
def main(
    checkpoint: Annotated[Path, typer.Argument(help="Such as data/checkpoints/best")],
    to: Annotated[Path, typer.Option(help="Name of the new files, without a suffix")],
) -> None:
    """Write a checkpoint of a quarter of the size, to hand on."""
    stem = checkpoints.stem_of(checkpoint)
    for path in (to.with_name(f"{to.name}{suffix}") for suffix in (".safetensors", ".json")):
        if path.exists():
            raise StageError(f"{path} exists; name new files with --to")
    checkpoints.export(stem, to)
    before, after = (path.with_name(f"{path.name}.safetensors").stat().st_size / 1e6 for path in (stem, to))
    print(f"{to}.safetensors: {after:.1f} MB of {before:.1f}; {to}.json describes it")
    print(f"next: arc solve FILE.json --checkpoint {to}")


if __name__ == "__main__":
    typer.run(main)
