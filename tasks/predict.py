"""Stage `predict`: every view's grid of one checkpoint under one evaluation, kept for good."""

from typing import Annotated

import typer

from model import checkpoints
from model.content import digest
from tasks import paths, predictions
from tasks.answers import answers
from tasks.params import resolved
from tasks.stage import stage


@stage("predict")
def main(
    checkpoint: Annotated[str, typer.Argument(help="best, halfway or final")],
    evaluation: Annotated[str, typer.Argument(help="A name under `evaluations` of the parameters")],
) -> None:
    """Write data/predictions/CHECKPOINT-EVALUATION.parquet."""
    experiment = resolved()
    config = experiment.evaluations[evaluation]
    stem = paths.CHECKPOINTS / checkpoint
    given, dataset, names = answers(stem, "evaluation", config, experiment.seed)
    rows = [
        {
            "task": names[dataset.pairs.task[answer.pair]],
            "test": int(dataset.pairs.number[answer.pair]),
            "view": answer.view,
            "attempt": answer.attempt,
            "height": answer.grid.shape[0],
            "width": answer.grid.shape[1],
            "cells": answer.grid.tobytes(),
            "size_log_probability": answer.size_log_probability,
            "confidence": answer.confidence,
            "change": answer.change.tolist(),
            "confidences": answer.confidences.tolist(),
            "entropy": answer.entropy.tolist(),
            "frames": [frame.tobytes() for frame in answer.frames],
        }
        for answer in given
    ]
    rows.sort(key=lambda row: (row["task"], row["test"], row["view"], row["attempt"]))
    description = checkpoints.describe(stem)
    source = predictions.Source(
        checkpoint=digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")),
        step=description.step,
        weights=description.weights,
        experiment=description.experiment,
        seed=experiment.seed,
        evaluation_name=evaluation,
        evaluation=config,
        data=description.data,
        leaks=description.leaks,
    )
    predictions.write(paths.predictions(checkpoint, evaluation), rows, source)


if __name__ == "__main__":
    typer.run(main)
