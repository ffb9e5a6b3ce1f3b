"""`make bench`: measures training and answering on this machine, as a table and as JSON. It is no test.

Shares are relative to the rate of one large matrix product in the same run. `--profile` prints the time per operator.
With `--like` the test inputs of kept predictions are answered, at their sizes, and `--stop` times the same votes where
they stop once decided, which an untrained network's would never be: its answers are taken to be the kept ones.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from model.config.experiment import Experiment
from model.ops.process_group import Workers
from tasks.benchmark.answering import Answering, answering, asked_of, stop_of
from tasks.benchmark.clock import attention_kernel, product_rates
from tasks.benchmark.grids import test_inputs
from tasks.benchmark.tracking import tracking
from tasks.benchmark.training import KINDS, training
from tasks.common import params, paths
from tasks.common.stage import StageError, stage
from tasks.files import predictions
from tasks.machine.device import choose, spread

USUAL = {"cpu": "v3/tiny", "cuda": "v3/smol,v8/smol,v8/mediom-deep,v8/mediom-wide"}
"""The usual experiments, by device."""


@stage("bench")
def main(
    experiments: Annotated[str, typer.Option(help="Comma-separated VERSION/SIZE; if none, the usual ones.")] = "",
    kinds: Annotated[str, typer.Option(help="Comma-separated: short, mixed, 30x30; 'none' for no training.")] = (
        "short,mixed,30x30"
    ),
    updates: Annotated[int, typer.Option(help="Updates timed.", min=1)] = 20,
    tasks: Annotated[int, typer.Option(help="Demonstration inputs answered; 0 for none.", min=0)] = 8,
    like: Annotated[
        Path | None, typer.Option(help="Predictions (.parquet) whose test inputs are answered too.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="ROUND,ATTEMPTS,SWING of evaluations.NAME.stop_decided.")
    ] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the parameters.")] = None,
    profile: Annotated[bool, typer.Option(help="Print the time per operator of one update.")] = False,
    out: Annotated[Path, typer.Option(help="JSON with every number.")] = Path(".scratch/bench.json"),
) -> None:
    """Measure training and answering and write the numbers. ARC_GPUS spreads the training."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise StageError(f"--out is {out}, which cannot be written; give a file in a folder that can")
    options = [("--experiments", experiments), ("--kinds", kinds), ("--updates", updates), ("--tasks", tasks)]
    options += [("--like", like)] if like else []
    options += [*(("--stop", text) for text in stop or []), *(("--set", text) for text in override or [])]
    profiling = "--profile" if profile else "--no-profile"
    spread("tasks.commands.bench", *(f"{name}={value}" for name, value in options), profiling, f"--out={out}")
    device, workers = choose(), Workers()
    names = (experiments or USUAL[device.type]).split(",")
    try:
        resolved, stops = [_experiment(name, override or []) for name in names], [stop_of(text) for text in stop or []]
        kept = predictions.read(like)[0] if like else None
        if kept is not None:
            test_inputs(resolved[0], asked_of(kept))  # Refuses tasks that nobody knows.
    except (ValueError, StageError) as error:
        raise typer.BadParameter(str(error)) from None
    sides = () if kinds == "none" else tuple(kinds.split(","))
    if unknown := set(sides) - {*KINDS}:
        raise typer.BadParameter(f"--kinds {','.join(sorted(unknown))}: allowed are {', '.join(KINDS)}, or none alone")
    workloads = [Answering(name, tasks) for name in (("attempts", "votes") if tasks else ())]
    workloads += [Answering("votes", like=kept, stops=stops)] if kept is not None else []
    rates = product_rates(device)
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "gpus": workers.count,
        "attention": attention_kernel(device),
        "product_flop_per_s": rates.single,
        "sustained_product_flop_per_s": rates.sustained,
        "training": [],
        "sampling": [],
        "tracking": tracking(),
    }
    for name, experiment in zip(names, resolved, strict=True):
        for kind in sides:
            row = training(experiment, kind, device, updates, profile)
            single, sustained = (row["flop_per_s"] / rate / workers.count for rate in rates)
            shares = {"share_of_product": single, "share_of_sustained_product": sustained}
            results["training"].append({"experiment": name, **row, **shares})
            if workers.rank == 0:
                print(json.dumps(results["training"][-1]), flush=True)
        for workload in workloads if workers.count == 1 else ():
            for row in answering(experiment, device, workload, profile):
                results["sampling"].append({"experiment": name, **row})
                print(json.dumps(results["sampling"][-1]), flush=True)
        if workers.rank == 0:  # After each, so that a later failure loses nothing.
            out.write_text(json.dumps(results, indent=1))
        # Each network is compiled anew, and the compiler refuses more than a few versions of a function in a process.
        torch.compiler.reset()
    if workers.rank == 0:
        show(results)


def _experiment(name: str, overrides: list[str]) -> Experiment:
    version, _, size = name.partition("/")
    values: dict[str, Any] = {"version": version, "size": size, "dataset": "aa1"}
    for assignment in overrides:
        values = params.override(values, assignment)
    return params.resolve(values, params.read(paths.PRESETS), f"--experiments {name}")


def show(results: dict[str, Any]) -> None:
    """The table."""
    product, sustained = (results[f"{kind}product_flop_per_s"] / 1e12 for kind in ("", "sustained_"))
    where = f"{results['gpus']} x {results['device']}, torch {results['torch']}, attention: {results['attention']}"
    table = Table(title=f"{where}: product {product:.2f} TFLOP/s, sustained {sustained:.2f}")
    shares = "share", "sustained"
    for column in ("experiment", "grids", "ms", "examples/s", "rows/s", "ns/row", "TFLOP/s", *shares, "first s", "GB"):
        table.add_column(column, justify="right")
    for r in results["training"]:
        memory = "-" if r["peak_memory_gb"] is None else f"{r['peak_memory_gb']:.1f}"
        speed = f"{r['ms_per_update']:.2f}", f"{r['examples_per_s']:.0f}", f"{r['rows_per_s']:.3g}"
        of_products = (f"{100 * r[f'share_of_{kind}product']:.0f} %" for kind in ("", "sustained_"))
        work = f"{r['ns_per_row']:.1f}", f"{r['flop_per_s'] / 1e12:.3f}", *of_products
        table.add_row(r["experiment"], r["kind"], *speed, *work, f"{r['seconds_to_first_update']:.1f}", memory)
    Console(width=None if sys.stdout.isatty() else 120).print(table if results["training"] else str(table.title))
    for r in results["sampling"]:
        took = f"{r['seconds']:.2f} s ({r['grids_per_s']:.2f} grids/s; first time {r['seconds_first']:.2f} s)"
        of = f"{r['answers']} answers to {r['grids']} grids" + (f", stopped at {r['stop']}" if r["stop"] else "")
        print(f"{r['experiment']}: {of}, {r['steps']} steps: {took}")
    live = results["tracking"]
    print(
        f"shown in MLflow live: {live['ms_per_row']:.3f} ms a row, {live['share']:.2%} of a training at 100 updates/s"
    )


if __name__ == "__main__":
    typer.run(main)
