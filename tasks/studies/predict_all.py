"""`python -m tasks.studies.predict_all [EVALUATION ...]`: all predictions of an experiment, in one process.

What a process needs to start is paid once: imports, data, compilation. Files that exist are left; start it again
to continue. A checkpoint that is the same as another, such as best and final, is asked once. ARC_GPUS share the grids.
"""

import shutil
from collections.abc import Collection, Iterator
from typing import Annotated

import typer

from model.config.experiment import Experiment
from model.ops.process_group import Workers
from model.storage.atomic import atomic_path
from model.storage.digests import digest
from tasks import predict
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import stage
from tasks.machine.device import spread


@stage("predict")
def main(
    final_only: Annotated[list[str] | None, typer.Argument(help="Evaluations of the final checkpoint alone")] = None,
) -> None:
    """Write data/predictions/CHECKPOINT-EVALUATION.parquet for every pair that is missing."""
    spread("tasks.studies.predict_all", *(final_only or ()))
    first, answered = Workers().rank == 0, dict[tuple[str, str], str]()
    for checkpoint, evaluation in pairs(resolved(), final_only or ()):
        path, stem = paths.predictions(checkpoint, evaluation), paths.CHECKPOINTS / checkpoint
        key = digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")), evaluation
        if not path.exists() and key in answered:
            if not first:
                continue
            with atomic_path(path) as temporary:
                shutil.copyfile(paths.predictions(answered[key], evaluation), temporary)
        elif not path.exists():
            predict.predict(checkpoint, evaluation)
        answered.setdefault(key, checkpoint)


def pairs(experiment: Experiment, final_only: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Checkpoint and evaluation of every file of predictions, the final checkpoint's first."""
    for checkpoint in sorted(experiment.predict.checkpoints, key=lambda name: name != "final"):
        for evaluation in experiment.predict.evaluations:
            if checkpoint == "final" or evaluation not in final_only:
                yield checkpoint, evaluation


if __name__ == "__main__":
    typer.run(main)
