"""Stage `train`: writes candidate checkpoints at even intervals and the history of metrics.

Until it ends, everything is in scratch, keyed by the content of the inputs. A training that was killed resumes from
its last save and produces the bytes of an uninterrupted one; a state saved by different code is not used.
"""

import functools
import gc
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from model.config.experiment import Experiment
from model.config.training import WeightsKind
from model.network.device_data import task_rows
from model.ops.process_group import Workers
from model.storage import atomic, checkpoints
from model.storage.checkpoints import Description
from model.storage.digests import digest
from model.training import resume_states, watch
from model.training.history import Diverged
from model.training.sampling_weights import last_weight, sampling_weights
from model.training.trainer import Stopped, Training
from model.training.validation import ACCURACY, CROSS_ENTROPY, lowest
from tasks.common import events, paths, stops
from tasks.common.params import resolved
from tasks.common.stage import EXIT_STATUS, StageError, stage
from tasks.files import candidates, cost, live, start_checkpoint
from tasks.files.tables import read_dataset, read_origins, read_tasks, read_validation
from tasks.machine import gpu_lock, nodes
from tasks.machine.device import choose, processes, sharded, spread

MEMORY: tuple[events.Reason, ...] = ("out of GPU memory", "out of memory")


@stage("train")
def main() -> None:
    """Write data/checkpoints/candidates, history.json and probes.json."""
    processes()  # A wrong ARC_GPUS is refused before anything is waited for.
    experiment = resolved()
    try:
        key = cost.training_key(experiment)
    except OSError as error:
        raise StageError(f"{error.filename} cannot be read: {error.strerror}; run `dvc repro`") from error
    scratch, lock = paths.SCRATCH / "train" / key, paths.SCRATCH / "train" / f"{key}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    if "RANK" not in os.environ:  # Set by torchrun, which holds the lock.
        gpu_lock.take_file(lock, "the same training")
    scratch.mkdir(exist_ok=True)  # Now: whoever held the lock has removed it.
    try:
        train(experiment, scratch)
    finally:
        if lock in gpu_lock.held():
            gpu_lock.release_file(lock)


def train(experiment: Experiment, scratch: Path) -> None:
    """Train, or go on from the state in `scratch`, and write the outputs of the stage."""
    spread("tasks.train", others=nodes.options())
    code()  # Cached now, since the code may be edited while the training runs.
    device, tasks = choose(), read_tasks()
    dataset = read_dataset("train", paths.TRAINING_VIEWS)
    origins, shares = read_origins("train"), experiment.train.origin_shares
    if experiment.train.finetune.pairs == "evaluation":
        dataset = replace(dataset, pairs=dataset.pairs.rows(np.flatnonzero(origins == "evaluation")))
        origins, shares = origins[origins == "evaluation"], {}
    weight = sampling_weights(origins, experiment.train.evaluation_weight, shares)
    rows = task_rows(experiment.train.network, dataset.views)
    description = candidates.describe(experiment, tasks, dataset)
    weights = None
    if experiment.train.finetune.start:
        where = description["tasks"], description["first_rows"], rows, experiment.seed
        weights = checkpoints.start_weights(start_checkpoint.STEM, experiment.train, experiment.augment, *where)
    validation = read_validation(paths.TRAINING_VIEWS)
    kind, last = Training, experiment.train.last_share_on_evaluation
    if sharded():
        from model.training.sharding import Sharded as kind  # It imports the compiler: a second of every start.
    extras = experiment.seed, device, weights, validation, last_weight(origins) if last else None

    workers = Workers()
    first = workers.rank == 0

    def load(halve: bool = False) -> tuple[Training, int | None]:
        made = functools.partial(kind, dataset, weight, rows)
        training, halved_after = watch.load(lambda config: made(config, *extras), experiment.train, scratch, halve)
        if training.step:
            if first:
                events.emit(events.Resumed(step=training.step, total=experiment.train.optimizer_steps))
            print(f"going on after update {training.step} of {experiment.train.optimizer_steps}", flush=True)
        elif first:
            shutil.rmtree(scratch / "candidates", ignore_errors=True)
        return training, halved_after

    if first:
        lost = functools.partial(candidates.lost, scratch / "candidates", experiment.train)
        for text in resume_states.sweep(scratch, code(), lost):
            print(text, flush=True)
    nodes.begin_alike(workers, scratch)
    training, halved_after = load()
    if first:
        live.start(cost.training_key(experiment))
    started, began = time.monotonic(), time.time()

    def spend() -> None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        if first:
            cost.add(experiment, (time.monotonic() - started) * workers.count, name, began)

    try:
        shortage = run(training, halved_after, scratch, description, experiment, spend)
        if shortage:
            largest = sum(training.stream.budget[1:3])
            del training
            gc.collect()
            torch.cuda.empty_cache()
            training, halved_after = load(halve=True)
            batch, accumulation = training.config.batch, training.config.accumulation
            if sum(training.stream.budget[1:3]) >= largest:
                raise shortage  # One example fills the batch.
            tell(
                f"{shortage.reason}: {shortage}; once more from update {halved_after} on, with train.batch {batch} and "
                f"train.accumulation {accumulation}, which makes the same examples an update"
            )
            run(training, halved_after, scratch, description, experiment, spend)
    finally:
        spend()
    probes = training.probe()
    if halved_after is not None:
        batch, accumulation = training.config.batch, training.config.accumulation
        probes["out_of_memory"] = {"after_update": halved_after, "batch": batch, "accumulation": accumulation}
    if not first:
        nodes.leave(scratch)
        return
    # A death before the last line loses nothing: the states and candidates in scratch are whole until then.
    shutil.rmtree(paths.CANDIDATES, ignore_errors=True)
    paths.CANDIDATES.mkdir(parents=True)
    for file in sorted((scratch / "candidates").iterdir()):
        atomic.copy(file, paths.CANDIDATES / file.name)
    atomic.write_json(paths.HISTORY, training.history)
    atomic.write_json(paths.PROBES, probes)
    print(*(f"{name}: {measured}" for name, measured in probes.items()), sep="\n")
    if probes.get("reverse_step") == {"cells_moved": 0.0}:
        print("warning: the reverse step moves no cell, which is known of the lab's argmax (version ledger, B3)")
    done = scratch.with_name(f"{scratch.name}.done")
    shutil.rmtree(done, ignore_errors=True)
    scratch.rename(done)
    shutil.rmtree(done)
    cost.finish(experiment)
    events.emit(events.Trained())


def tell(text: str) -> None:
    """Say what a watcher should know of a training that goes on: in the log and in MLflow."""
    print(f"warning: {text}", flush=True)
    events.emit(events.Warned(message=text))


def save_seconds() -> float:
    """Time between two saves: ARC_SAVE_SECONDS, by default 60. Raises StageError."""
    text = os.environ.get("ARC_SAVE_SECONDS") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise StageError(f"ARC_SAVE_SECONDS is {text!r}; allowed is a number of seconds, 0 or more")
    return seconds


def run(
    training: Training,
    halved_after: int | None,
    scratch: Path,
    description: dict[str, Any],
    experiment: Experiment,
    spend: Callable[[], None],
) -> StageError | None:
    """Train to the end, with a progress bar; SIGTERM and Ctrl-C save first. Raises StageError when stopped.

    Before the first update, which waits for the compiler, there is nothing to save: SIGTERM ends one process at once.
    Returns the error of an update for which memory did not suffice, where half the micro-batch is to be tried; `spend`
    is called where the process ends at once, since the training stalls.
    """
    if training.workers.count > 1:
        stops.noted()  # They stop after the same update.
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    first, states = training.workers.rank == 0, resume_states.Writer(scratch, code())

    def on_save() -> None:
        tensors, plain = training.state()
        if first:
            states.save(tensors, plain | {"halved_after": halved_after})

    def on_stall(text: str) -> None:
        events.emit(events.Failed(reason="no progress", message=text))
        print(f"train: {text}", file=sys.stderr, flush=True)
        spend()
        os._exit(EXIT_STATUS["no progress"])  # The thread that trains may never come back.

    watcher = watch.Watcher(training, experiment.watch, tell if first else lambda _: None, on_stall)

    with Progress(*columns, disable=not first) as progress:
        bar = progress.add_task("training", total=training.config.optimizer_steps, completed=training.step)

        def on_row(row: dict[str, float]) -> None:
            if first:
                show(row)
            watcher.row()

        def show(row: dict[str, float]) -> None:
            step, total = int(row["step"]), training.config.optimizer_steps
            fields = {name: value for name, value in row.items() if name in events.Progress.model_fields}
            events.emit(events.Progress.model_validate(fields | {"step": step, "total": total}))
            events.emit(events.Row(values=row))
            text = f"loss {row['loss']:.3f} accuracy {row['accuracy']:.3f}"
            if CROSS_ENTROPY in row:
                text += f" validation cross-entropy {row[CROSS_ENTROPY]:.3f} accuracy {row[ACCURACY]:.3f}"
            progress.update(bar, completed=step, description=text)
            if not progress.console.is_terminal:
                print(f"update {step} of {total}: {text}", flush=True)

        def on_candidate(step: int) -> None:
            with watcher.paused():
                keep(step)

        def keep(step: int) -> None:
            weights: dict[WeightsKind, dict[str, Tensor]] = {kind: training.weights(kind) for kind in ("ema", "raw")}
            if not first:
                return
            stem = scratch / "candidates" / paths.candidate(step).name
            reached = {"step": step, "stopped_early": training.stopped_early}
            checkpoints.save(stem, weights, Description.model_validate(description | reached))
            if training.config.evaluate_candidates:
                candidates.score(stem, experiment)

        def stop() -> bool:
            watcher.update()
            return stops.noted()

        watcher.start()
        try:
            training.run(
                on_row=on_row,
                on_candidate=on_candidate,
                on_save=on_save,
                stop=stop,
                save_seconds=save_seconds(),
            )
        except Stopped as stopped:
            raise StageError(f"{stopped}; start the stage again to go on", "stopped") from None
        except Diverged as error:
            raise StageError(str(error), "the loss is not finite") from None
        except watch.LossRose as error:
            raise StageError(str(error), "the loss diverged") from None
        except (RuntimeError, MemoryError) as error:
            reason = events.reason_of(error)
            if isinstance(error, StageError) or reason not in MEMORY:
                raise
            shortage = StageError(f"update {training.step + 1}: {str(error).splitlines()[0]}", reason)
            if halved_after is None and watcher.may_halve():
                return shortage
            raise shortage from None
        finally:
            watcher.stop()
            states.wait()
    if first and training.config.early_stop and training.stopped_early:
        update, value = lowest(training.history, training.config.early_stop)
        print(
            f"stopped early after update {training.step} of {training.config.optimizer_steps}: no validation "
            f"cross-entropy below the {value:.4f} of update {update:.0f} since",
            flush=True,
        )
    return None


@functools.cache
def code() -> str:
    """Digest of the code that decides the outcome of a training: the code deps of the stage in dvc.yaml."""
    root = Path(__file__).parent.parent
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    listed = [root / name for name in stages["train"]["deps"] if name.startswith(("model/", "tasks/"))]
    files = {file for path in listed for file in ([path] if path.suffix else path.rglob("*.py"))}
    return digest(*sorted(files))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
