"""Time, rows and operations of an update."""

import time
from typing import Any

import numpy as np
import torch

from model.config.experiment import Experiment
from model.network.device_data import task_rows
from model.training.trainer import Training
from tasks.benchmark import flops
from tasks.benchmark.clock import show_profile, synchronize
from tasks.benchmark.flops import Lengths
from tasks.benchmark.grids import dataset

KINDS = {"short": 5, "mixed": 0, "30x30": 30}
"""Side of every grid; 0 for the original grids of ARC-AGI-1."""


def training(experiment: Experiment, kind: str, device: torch.device, updates: int, profile: bool) -> dict[str, Any]:
    """Time, rows and operations of an update."""
    data = dataset(experiment, KINDS[kind], 800)
    config = experiment.train
    if KINDS[
        kind
    ]:  # The same number of rows per update as with mixed grids, so that the cost of a row can be compared.
        mixed, own = (np.mean(p.input_height * p.input_width + p.output_height * p.output_width)
                      for p in (dataset(experiment, 0, 800).pairs, data.pairs))  # fmt: skip
        config = config.model_copy(update={"batch": max(1, round(config.batch * float(mixed / own)))})
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    subject = Training(data, np.ones(len(data.pairs)), task_rows(config.network, data.views), config, 0, device)
    batches = subject.stream.batches()

    def update() -> None:
        subject.update([next(batches) for _ in range(config.accumulation)])

    update()
    synchronize(device)
    first = time.perf_counter() - started
    for _ in range(8):  # Both branches of self-conditioning are compiled and recorded.
        update()
    synchronize(device)
    started_at, examples, rows, operations = time.perf_counter(), 0, 0, 0.0
    for _ in range(updates):
        micro_batches = [next(batches) for _ in range(config.accumulation)]
        for number, batch in enumerate(micro_batches):
            lengths = Lengths(
                np.array([r[3] * r[4] + subject.network.prefix_length for r in batch]),
                np.array([r[6] * r[7] for r in batch]),
            )
            examples, rows = examples + len(batch), rows + int(lengths.context.sum() + lengths.target.sum())
            operations += flops.training(config.network, lengths, subject.step_mode(number).estimate)
        subject.update(micro_batches)
    synchronize(device)
    seconds = time.perf_counter() - started_at
    if profile:
        show_profile(update, device)
    return {
        "kind": kind,
        "ms_per_update": 1000 * seconds / updates,
        "examples_per_s": examples / seconds,
        "rows_per_s": rows / seconds,
        "ns_per_row": 1e9 * seconds / rows,
        "flop_per_s": operations / seconds,
        "seconds_to_first_update": first,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "fill": rows / (updates * config.accumulation * (subject.stream.budget.context + subject.stream.budget.target)),
    }
