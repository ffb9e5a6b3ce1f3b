"""Stage `predict`: the predicted grid of every view, for one checkpoint and one evaluation."""

from typing import Annotated

import typer

from model.inference.answer import Failure
from model.ops.process_group import Workers
from model.storage import checkpoints
from model.storage.digests import digest
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files import predictions
from tasks.machine.answers import answers
from tasks.machine.device import spread


@stage("predict")
def main(
    checkpoint: Annotated[str, typer.Argument(help="best, halfway, late or final")],
    evaluation: Annotated[str, typer.Argument(help="A name under `evaluations` of the parameters")],
) -> None:
    """Write data/predictions/CHECKPOINT-EVALUATION.parquet."""
    spread("tasks.predict", checkpoint, evaluation)
    predict(checkpoint, evaluation)


def predict(checkpoint: str, evaluation: str) -> None:
    """The stage in this process. Raises StageError, ConfigurationError and CheckpointError."""
    experiment, workers = resolved(), Workers()
    if evaluation not in experiment.evaluations:
        raise StageError(
            f"{paths.EXPERIMENT} has no evaluation {evaluation!r}; defined are {', '.join(experiment.evaluations)}"
        )
    config = experiment.evaluations[evaluation]
    experiment.check_evaluation(evaluation, config)
    stem = paths.CHECKPOINTS / checkpoint
    failures: list[Failure] = []
    share = workers.rank, workers.count
    predicted, dataset, names = answers(stem, config.subset, config, experiment.seed, failures, share)
    if len(dataset.pairs) == 0 and workers.count == 1:
        raise StageError(
            f"{paths.PAIRS} has no test input of {config.subset} tasks for evaluation {evaluation!r}; validation tasks "
            "(prepare.validation_tasks) are not among the training tasks that are asked: hold out fewer"
        )
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
            "last_changed_step": answer.last_changed_step,
            # Of view 0 alone: for all views they would be most of the file.
            "change": None if answer.view else answer.change.tolist(),
            "confidences": None if answer.view else answer.confidences.tolist(),
            "entropy": None if answer.view else answer.entropy.tolist(),
            "frames": [frame.tobytes() for frame in answer.frames],
            "log_likelihoods": None if answer.log_likelihoods is None else answer.log_likelihoods.tolist(),
        }
        for answer in predicted
    ]
    description = checkpoints.describe(stem)
    source = predictions.Source(
        checkpoint=digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")),
        step=description.step,
        weights=description.weights if config.weights == "as-trained" else config.weights,
        experiment=description.experiment,
        seed=experiment.seed,
        evaluation_name=evaluation,
        evaluation=config,
        data=description.data,
        leaks=description.leaks,
        failures=tuple(
            (names[dataset.pairs.task[f.pair]], int(dataset.pairs.number[f.pair]), f.view, f.attempt, f.message)
            for f in failures
        ),
    )
    path = paths.predictions(checkpoint, evaluation)
    parts = [paths.SCRATCH / "predict" / f"{path.name}-{worker}" for worker in range(workers.count)]
    if workers.count > 1:
        predictions.write(parts[workers.rank], rows, source)
        workers.wait()
        if workers.rank:
            return
        rows, source = predictions.joined(parts)
    if source.failures and not rows:
        task, test, _, _, message = source.failures[0]
        raise StageError(
            f"all {len(source.failures)} answers failed, the first of them of task {task}, test {test}: {message}"
        )
    rows.sort(key=lambda row: (row["task"], row["test"], row["view"], row["attempt"]))
    predictions.write(path, rows, source)
    for task, test, view, attempt, message in source.failures:
        print(f"task {task}, test {test}, view {view}, attempt {attempt} failed and counts as wrong: {message}")


if __name__ == "__main__":
    typer.run(main)
