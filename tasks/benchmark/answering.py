"""Time of answers by an untrained network: to demonstration inputs, or to test inputs as kept predictions answered."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from model.config.evaluation import EarlyStop, Evaluation, TaskRow
from model.config.experiment import Experiment
from model.inference.answer import Answer
from model.inference.denoising import Denoised
from model.inference.predictor import Predictor
from model.network.denoiser import build
from model.network.device_data import first_rows, task_rows
from model.puzzles.arrays import Dataset
from model.puzzles.grids import Grid, Size
from model.storage.checkpoints import FORMAT, Description
from tasks.benchmark.clock import show_profile, synchronize
from tasks.benchmark.grids import dataset, test_inputs


class Answering(NamedTuple):
    """What is timed."""

    evaluation: str
    """Name in the experiment's evaluations."""
    tasks: int = 0
    """Tasks whose first demonstration input is answered, without `like`."""
    like: pd.DataFrame | None = None
    """Kept predictions whose test inputs are answered, at their sizes."""
    stops: Sequence[EarlyStop] = ()
    """Ways to stop where votes are decided, each timed beside all views."""


class InputSizes(Predictor):
    """Predicts sizes, whose time counts, but answers at the size of the input, as a trained size head often would."""

    def _sizes(
        self, queries: list[tuple[int, int]], failed: dict[int, str] | None, task_row: TaskRow
    ) -> NDArray[np.float64]:
        result = np.full_like(super()._sizes(queries, failed, task_row), -10.0)
        pairs = self.dataset.pairs
        for i, (pair, _) in enumerate(queries):
            result[i, 0, pairs.input_height[pair] - 1] = result[i, 1, pairs.input_width[pair] - 1] = 0.0
        return result


@dataclass(frozen=True)
class AsKept(Predictor):
    """Answers at the sizes of kept answers, which then stand for its own: votes are decided when theirs were.

    No view chooses a size, as where demonstrations explain all of them.
    """

    kept: Mapping[tuple[int, int, int], Grid] = field(default_factory=dict)
    """By row of the pairs, view and attempt."""

    def _sizes(
        self, queries: list[tuple[int, int]], failed: dict[int, str] | None, task_row: TaskRow
    ) -> NDArray[np.float64]:
        return np.full((len(queries), 2, 30), np.nan)

    def _chosen_sizes(
        self, queries: list[tuple[int, int]], scores: NDArray[np.float64], config: Evaluation, attempt: int
    ) -> dict[int, Size]:
        kept_grids = ((i, self.kept.get((*query, attempt))) for i, query in enumerate(queries))
        return {i: (grid.shape[0], grid.shape[1]) for i, grid in kept_grids if grid is not None}

    def _answers_of(self, queries: list[tuple[int, int, int]], sizes: list[Size], denoised: Denoised) -> list[Answer]:
        made = super()._answers_of(queries, sizes, denoised)
        return [a._replace(grid=self.kept[query]) for a, query in zip(made, queries, strict=True)]


def asked_of(like: pd.DataFrame) -> list[tuple[str, int]]:
    """The test inputs (task, number) of kept predictions."""
    return sorted(set(zip(like["task"], like["test"], strict=True)))


def stop_of(text: str) -> EarlyStop:
    """From ROUND,ATTEMPTS,SWING. Raises ValueError."""
    try:
        round_, attempts, swing = text.split(",")
        return EarlyStop(round=int(round_), attempts=int(attempts), swing=float(swing))
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"--stop {text!r}: {fault['loc'][0]}: {fault['msg']}") from None
    except ValueError:
        raise ValueError(f"--stop {text!r} is no ROUND,ATTEMPTS,SWING, such as 16,1,0.25") from None


def answering(experiment: Experiment, device: torch.device, workload: Answering, profile: bool) -> list[dict[str, Any]]:
    """Seconds to answer all, and for each of `workload.stops`; the first time apart, since it compiles."""
    config = experiment.evaluations[workload.evaluation]
    kept: dict[tuple[int, int, int], Grid] = {}
    if workload.like is None:
        data, names = dataset(experiment, 0, workload.tasks), [str(i) for i in range(workload.tasks)]
        data = Dataset(data.cells, data.pairs.rows(np.flatnonzero(data.pairs.number == 0)), data.views)
    else:
        rows = workload.like
        data, names = test_inputs(experiment, asked_of(rows))
        pair = {(names[data.pairs.task[i]], int(data.pairs.number[i])): i for i in range(len(data.pairs))}
        columns = (rows[name] for name in ("task", "test", "view", "attempt", "grid"))
        kept = {(pair[task, test], view, attempt): g for task, test, view, attempt, g in zip(*columns, strict=True)}
    network = experiment.train.network
    description = Description(
        format=FORMAT, experiment=experiment.name, seed=0, step=1, optimizer_steps=2, stopped_early=False,
        weights="raw", train=experiment.train, prepare=experiment.prepare, augment=experiment.augment,
        tasks=tuple(names), first_rows=tuple(first_rows(network, data.views).tolist()),
        task_rows=task_rows(network, data.views), data="0" * 64, tests_trained_on=(), pairs_trained_on="", leaks=0,
    )  # fmt: skip
    untrained = build(experiment.train, description.task_rows).to(device).eval()
    here = untrained, description, data, names, 0, device
    predictor = AsKept(*here, kept=kept) if kept else InputSizes(*here)

    def timed(way: Evaluation) -> tuple[int, float]:
        started = time.perf_counter()
        count = sum(1 for _ in predictor.answer(way))
        synchronize(device)
        return count, time.perf_counter() - started

    ways = [config, *(config.model_copy(update={"stop_decided": stop}) for stop in workload.stops)]
    _, first = timed(ways[-1])
    result = []
    for way in ways:
        count, seconds = timed(way)
        stop = way.stop_decided
        result.append(
            {
                "grids": len(data.pairs),
                "answers": count,
                "views": way.views,
                "steps": way.steps,
                "stop": None if stop is None else f"{stop.round},{stop.attempts},{stop.swing:g}",
                "seconds_first": first,
                "seconds": seconds,
                "grids_per_s": len(data.pairs) / seconds,
            }
        )
    if profile:
        show_profile(lambda: list(predictor.answer(config)), device, 1)
    return result
