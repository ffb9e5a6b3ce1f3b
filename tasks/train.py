"""Stage `train`: writes candidate checkpoints at even intervals and the history of metrics.

Until it ends, everything is in scratch, keyed by the content of the inputs. A training that was killed resumes from
its last save and produces the bytes of an uninterrupted one; a state saved by different code is not used.
"""

import functools
import importlib
import math
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from model.config.experiment import Experiment
from model.config.training import Train, WeightsKind
from model.network.device_data import first_rows, task_rows
from model.puzzles.arrays import Dataset
from model.puzzles.leaks import fingerprints
from model.storage import atomic, checkpoints
from model.storage.checkpoints import CheckpointError, Description
from model.storage.digests import digest
from model.training import resume_states
from model.training.history import Diverged
from model.training.sampling_weights import last_weight, sampling_weights
from model.training.sharding import Sharded
from model.training.trainer import Stopped, Training
from model.training.validation import ACCURACY, CROSS_ENTROPY, lowest
from tasks.common import events, paths
from tasks.common.documents import read_json
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files import cost, live, start_checkpoint
from tasks.files.tables import data_digest, read_dataset, read_origins, read_tasks, read_validation
from tasks.machine import gpu_lock
from tasks.machine.device import choose, processes, sharded, spread


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
    spread("tasks.train")
    code()  # Cached now, since the code may be edited while the training runs.
    device = choose()
    tasks = read_tasks()
    dataset = read_dataset("train", paths.TRAINING_VIEWS)
    origins, shares = read_origins("train"), experiment.train.origin_shares
    if experiment.train.finetune.pairs == "evaluation":
        dataset = replace(dataset, pairs=dataset.pairs.rows(np.flatnonzero(origins == "evaluation")))
        origins, shares = origins[origins == "evaluation"], {}
    weight = sampling_weights(origins, experiment.train.evaluation_weight, shares)
    rows = task_rows(experiment.train.network, dataset.views)
    description = describe(experiment, tasks, dataset)
    weights = None
    if experiment.train.finetune.start:
        where = description["tasks"], description["first_rows"], rows, experiment.seed
        weights = checkpoints.start_weights(start_checkpoint.STEM, experiment.train, experiment.augment, *where)
    validation = read_validation(paths.TRAINING_VIEWS)
    kind = Sharded if sharded() else Training
    given = dataset, weight, rows, experiment.train, experiment.seed, device, weights, validation
    training = kind(*given, last_weight(origins) if experiment.train.last_share_on_evaluation else None)
    first = training.workers.rank == 0
    if first:
        lost = functools.partial(lost_candidates, scratch, experiment.train)
        for text in resume_states.sweep(scratch, code(), lost):
            print(text, flush=True)
    training.workers.wait()
    if state := resume_states.newest(scratch):
        training.restore(*resume_states.read(state))
        if first:
            events.emit(events.Resumed(step=training.step, total=experiment.train.optimizer_steps))
        print(f"going on after update {training.step} of {experiment.train.optimizer_steps}", flush=True)
    elif first:
        shutil.rmtree(scratch / "candidates", ignore_errors=True)
    if first:
        live.start(cost.training_key(experiment))
    started, began = time.monotonic(), time.time()
    try:
        run(training, scratch, description, experiment)
    finally:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        if first:
            cost.add(experiment, (time.monotonic() - started) * training.workers.count, name, began)
    probes = training.probe()
    if not first:
        return
    # A death before the last line loses nothing: the states and candidates in scratch are whole until then.
    shutil.rmtree(paths.CANDIDATES, ignore_errors=True)
    paths.CANDIDATES.mkdir(parents=True)
    for file in sorted((scratch / "candidates").iterdir()):
        atomic.copy(file, paths.CANDIDATES / file.name)
    atomic.write_json(paths.HISTORY, training.history)
    atomic.write_json(paths.PROBES, probes)
    for name, measured in probes.items():
        print(f"{name}: {measured}")
    if probes.get("reverse_step") == {"cells_moved": 0.0}:
        print("warning: the reverse step moves no cell, which is known of the lab's argmax (version ledger, B3)")
    done = scratch.with_name(f"{scratch.name}.done")
    shutil.rmtree(done, ignore_errors=True)
    scratch.rename(done)
    shutil.rmtree(done)
    events.emit(events.Trained())


def lost_candidates(scratch: Path, config: Train, step: int) -> str | None:
    """Why the candidates in `scratch` do not allow to resume after `step` updates; None if they do."""
    every = config.optimizer_steps // config.candidates
    for number in range(every, step + 1, every):
        try:
            checkpoints.check_intact(scratch / "candidates" / paths.candidate(number).name)
        except CheckpointError as error:
            return str(error)
    return None


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


def run(training: Training, scratch: Path, description: dict[str, Any], experiment: Experiment) -> None:
    """Train to the end, with a progress bar; SIGTERM and Ctrl-C save first. Raises StageError when stopped."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopping.append(n))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    first, states = training.workers.rank == 0, resume_states.Writer(scratch, code())

    def on_save() -> None:
        state = training.state()
        if first:
            states.save(*state)

    with Progress(*columns, disable=not first) as progress:
        bar = progress.add_task("training", total=training.config.optimizer_steps, completed=training.step)

        def on_row(row: dict[str, float]) -> None:
            if not first:
                return
            step, total = int(row["step"]), training.config.optimizer_steps
            known = {name: value for name, value in row.items() if name in events.Progress.model_fields}
            events.emit(events.Progress.model_validate(known | {"step": step, "total": total}))
            events.emit(events.Row(values=row))
            text = f"loss {row['loss']:.3f} accuracy {row['accuracy']:.3f}"
            if CROSS_ENTROPY in row:
                text += f" validation cross-entropy {row[CROSS_ENTROPY]:.3f} accuracy {row[ACCURACY]:.3f}"
            progress.update(bar, completed=step, description=text)
            if not progress.console.is_terminal:
                print(f"update {step} of {total}: {text}", flush=True)

        def on_candidate(step: int) -> None:
            weights: dict[WeightsKind, dict[str, Tensor]] = {kind: training.weights(kind) for kind in ("ema", "raw")}
            if not first:
                return
            stem = scratch / "candidates" / paths.candidate(step).name
            reached = {"step": step, "stopped_early": training.stopped_early}
            checkpoints.save(stem, weights, Description.model_validate(description | reached))
            if training.config.evaluate_candidates:
                score_candidate(stem, experiment)

        def stop() -> bool:
            return bool(stopping)

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
        finally:
            states.wait()
    if first and training.config.early_stop and training.stopped_early:
        update, value = lowest(training.history, training.config.early_stop)
        print(
            f"stopped early after update {training.step} of {training.config.optimizer_steps}: no validation "
            f"cross-entropy below the {value:.4f} of update {update:.0f} since",
            flush=True,
        )


def score_candidate(stem: Path, experiment: Experiment) -> None:
    """Print and report the score that `select` will give this candidate.

    It reaches no output of this stage, which would depend on the sampler then: `select` is loaded by its name, since an
    import would be a dependency in dvc.yaml, and editing the sampler would train again.
    """
    with torch.random.fork_rng():  # Building the candidate's network draws from torch's generators.
        result = importlib.import_module("tasks.select").measure(stem, experiment.select, experiment.seed)
    low, high = result["ci95"]
    print(
        "candidate of update {step}: pass@2 {pass_at_2:.3f} [{low:.3f}, {high:.3f}], cells right {cell_accuracy:.3f}, "
        "{grids_solved} of {n_grids} grids".format(low=low, high=high, **result),
        flush=True,
    )
    kept = {name: result[name] for name in events.CandidateScored.model_fields if name in result}
    events.emit(events.CandidateScored(**kept))


@functools.cache
def code() -> str:
    """Digest of the code that decides the outcome of a training: the code deps of the stage in dvc.yaml."""
    root = Path(__file__).parent.parent
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    listed = [root / name for name in stages["train"]["deps"] if name.startswith(("model/", "tasks/"))]
    files = {file for path in listed for file in ([path] if path.suffix else path.rglob("*.py"))}
    return digest(*sorted(files))


def describe(experiment: Experiment, tasks: list[dict[str, Any]], dataset: Dataset) -> dict[str, Any]:
    """The description that every checkpoint of this training shares; `step` and `stopped_early` are added to each.

    Raises StageError for a start that was trained on evaluated pairs, unless prepare.leaks is keep.
    """
    leaks, names = read_json(paths.LEAKS), [task["name"] for task in tasks]
    leaked = set()
    if leaks["leaks"] == "keep":
        leaked = {(entry["task"], entry["test"]) for entry in leaks["pairs_of_other_tasks"]}
    held_out = {names[t] for t in read_dataset("validation", paths.TRAINING_VIEWS).pairs.task}
    with_tests = {names[t] for t in dataset.pairs.task if tasks[t]["origin"] != "evaluation"}
    trained, pairs = with_tests - held_out, set(fingerprints(dataset))
    if experiment.train.finetune.start:
        before = start_checkpoint.describe()
        leaked |= start_checkpoint.leaked(before, leaks)
        trained |= set(before.tests_trained_on)
        pairs |= set(before.pairs_trained_on.split())
        seen = sorted(held_out & set(before.tests_trained_on))
        if seen:
            print(f"the start was trained on the test pairs of {len(seen)} of {len(held_out)} validation tasks")
    return {
        "format": checkpoints.FORMAT,
        "experiment": experiment.name,
        "seed": experiment.seed,
        "optimizer_steps": experiment.train.optimizer_steps,
        "weights": experiment.train.evaluated_weights,
        "train": experiment.train,
        "prepare": experiment.prepare,
        "augment": experiment.augment,
        "tasks": names,
        "first_rows": first_rows(experiment.train.network, dataset.views).tolist(),
        "task_rows": task_rows(experiment.train.network, dataset.views),
        "data": data_digest(),
        "tests_trained_on": sorted(trained),
        "pairs_trained_on": " ".join(sorted(pairs)),
        "leaks": len(leaked),
    }


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
