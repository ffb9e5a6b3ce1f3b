"""`python -m tasks.studies.run_stages STUDY [NAME ...]`: a study by the stages alone, without DVC and git.

For a machine that has a GPU and little else, such as one that is rented for an hour. Each experiment gets a folder of
its own, keyed by what it resolves to, and one GPU, or several (`--gpus 0+1,2,3`); as many train at once as `--gpus` has
entries, while the data of the next are prepared. What was done is not done again, and an interrupted training resumes:
start the same command again. Of every experiment, what `arc import` publishes is kept, and the final checkpoint if you
say so. With `--prepare-only` all data are prepared before the GPU is paid for: copy the folder to its machine. With
`--answer-beside` an experiment is answered while the next one trains on the same GPU, which takes the memory of both.
"""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from model.config.experiment import Experiment
from model.storage import checkpoints
from model.storage.atomic import atomic_path, write_json
from model.storage.digests import digest_text
from tasks.common import paths
from tasks.common.documents import read_json
from tasks.common.presets import ConfigurationError
from tasks.common.stage import StageError, stage
from tasks.files import predictions
from tasks.machine import gpu_lock
from tasks.studies import own_files, predict_all
from tasks.studies.study_file import Member, read_study

ROOT = Path(__file__).parents[2]
PREPARATION = (("params", "--write"), ("fetch",), ("prepare",), ("augment",))
FETCHED = (paths.RAW, paths.START)
PREDICT = predict_all.__name__.removeprefix("tasks.")
KEPT_FILES = (paths.EXPERIMENT, paths.PARAMS, paths.HISTORY, paths.SELECTION, paths.PROBES)
ANSWERS = ("select", PREDICT)
INTERRUPTED = 128 + signal.SIGTERM


class Interrupted(Exception):
    """A stage was told to stop, or the command was before the stage started."""


class Runner:
    """Runs the stages of experiments until it is told to stop."""

    def __init__(
        self,
        folder: Path,
        keep: Path,
        commit: str,
        *,
        weights: bool = False,
        prepare_only: bool = False,
        beside: bool = False,
    ) -> None:
        self.folder, self.keep, self.commit = folder.resolve(), keep.resolve(), commit
        self.weights, self.prepare_only, self.beside = weights, prepare_only, beside
        self.stopping = threading.Event()
        self.children: set[subprocess.Popen[bytes]] = set()
        self.fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.taking = threading.Lock()

    def stop(self, *_: object) -> None:
        """Tell every stage to save and stop."""
        self.stopping.set()
        for child in list(self.children):
            child.terminate()

    def prepare(self, member: Member) -> Path:
        """The folder of an experiment with its data, which take no GPU. Raises StageError or Interrupted."""
        place = self.folder / digest_text(member.experiment.model_dump_json())[:16]
        place.mkdir(parents=True, exist_ok=True)
        (place / paths.PARAMS).write_text(yaml.safe_dump(member.values, sort_keys=False))
        shutil.copy(ROOT / paths.PRESETS, place / paths.PRESETS)
        own_files.copy(ROOT, place)
        self._stages(place, PREPARATION[:1], gpu="")
        self._fetch(place, member.experiment)
        self._stages(place, PREPARATION[2:], gpu="")
        return place

    def _fetch(self, place: Path, experiment: Experiment) -> None:
        """The stage fetch, once for all experiments that fetch the same: RE-ARC's pairs take minutes to generate."""
        settings = experiment.model_dump(mode="json", include={"fetch", "seed", "prepare"})
        own = list(own_files.digests(place).items())
        key = digest_text(json.dumps([settings, experiment.train.finetune.start, own], sort_keys=True))[:16]
        shared, done = self.folder.with_name(f"{self.folder.name}-fetched") / key, place / ".done" / "fetch"
        with self.fetching[key]:
            if shared.exists() and not done.exists():
                for path in FETCHED:
                    shutil.copytree(shared / path, place / path, dirs_exist_ok=True)
                done.write_text("0.0\n")
            self._stages(place, PREPARATION[1:2], gpu="")
            if not shared.exists():
                temporary = shared.with_name(f"{key}.incomplete")
                shutil.rmtree(temporary, ignore_errors=True)
                for path in FETCHED:
                    shutil.copytree(place / path, temporary / path)
                temporary.rename(shared)

    def train(self, member: Member, place: Path, gpu: str) -> None:
        """The stage train. Raises StageError or Interrupted."""
        try:
            self._stages(place, [("train",)], gpu)
        finally:
            self._keep(place, member)

    def answer(self, member: Member, place: Path, gpu: str) -> Path:
        """The stages after it that take the GPU, and the folder of what is kept. Raises StageError or Interrupted."""
        for command in (("select",), (PREDICT, *sorted(member.final_only))):
            try:
                self._stages(place, [command], gpu)
            finally:
                self._keep(place, member)
        if self.weights:
            checkpoints.export(place / paths.CHECKPOINTS / "final", self.keep / member.label / "final")
        return self.keep / member.label

    def _stages(self, place: Path, commands: Sequence[tuple[str, ...]], gpu: str) -> None:
        for command in commands:
            done = place / ".done" / command[0]
            if done.exists():
                continue
            started = datetime.datetime.now(datetime.UTC)
            self._stage(place, gpu, *command)
            done.parent.mkdir(exist_ok=True)
            done.write_text(f"{(datetime.datetime.now(datetime.UTC) - started).total_seconds():.1f}\n")

    def _stage(self, place: Path, gpu: str, name: str, *arguments: str) -> None:
        if self.stopping.is_set():
            raise Interrupted
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "ARC_SCRATCH": ".scratch"}
        if gpu:
            environment |= {"CUDA_VISIBLE_DEVICES": gpu.replace("+", ","), "ARC_GPUS": str(gpu.count("+") + 1)}
        if self.beside and name in ANSWERS:
            # Locks of their own: beside a training, but never beside other answers.
            environment["ARC_LOCKS"] = f"{os.environ.get('ARC_LOCKS') or gpu_lock.FOLDER}-answers"
        started = place / ".started"
        if name == "train" and not started.exists():
            started.write_text(datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        with (place / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", f"tasks.{name}", *arguments]
            with subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log) as child:
                self.children.add(child)
                if self.stopping.is_set():
                    child.terminate()
                code = child.wait()
                self.children.discard(child)
                if code and self.stopping.is_set():
                    log.write(f"{name}: it was told to stop and ended with code {code}\n".encode())
                    raise Interrupted
        if code:  # A stage that finished although it was told to stop is done.
            last = (place / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise StageError(f"stage {name} in {place} ended with code {code}: {last[0]}")

    def _keep(self, place: Path, member: Member) -> None:
        kept = self.keep / member.label
        kept.mkdir(parents=True, exist_ok=True)
        for file in KEPT_FILES:
            if (place / file).exists():
                with atomic_path(kept / file.name) as temporary:
                    shutil.copyfile(place / file, temporary)
        for file in sorted((place / paths.PREDICTIONS).glob("*.parquet")):
            # View 0's denoising steps are most of a file: kept where people look first.
            whole = file.name.startswith("final-") and file.stem.partition("-")[2] not in member.final_only
            predictions.keep(file, kept / file.name, whole)
        costs: list[dict[str, Any]] = [read_json(file) for file in place.glob(".scratch/cost/*.json")]
        if costs:
            cost = {**costs[0], "started": (place / ".started").read_text()}
            cost["stages"] = {file.name: float(file.read_text()) for file in sorted((place / ".done").iterdir())}
            cost |= {"commit": self.commit} if self.commit else {}
            write_json(kept / "cost.json", cost | ({"gpu_shared": True} if self.beside else {}))


@stage("run_stages", tied=False)
def main(
    study: Annotated[Path, typer.Argument(help="YAML file such as docs/studies/versions.yaml")],
    names: Annotated[list[str] | None, typer.Argument(help="Experiments of it, in this order; all if none")] = None,
    keep: Annotated[Path, typer.Option(help="Folder for what is kept of each experiment")] = Path("kept"),
    folder: Annotated[Path, typer.Option(help="Folder for the experiments")] = paths.SCRATCH / "run_stages",
    gpus: Annotated[str, typer.Option(help="Such as 0,1 or, two for one training, 0+1,2; '': a stage chooses")] = "",
    commit: Annotated[str, typer.Option(help="Commit of this code, for the record")] = "",
    weights: Annotated[bool, typer.Option("--weights", help="Keep the final checkpoint too (arc export)")] = False,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Prepare the data, and train nothing")] = False,
    beside: Annotated[bool, typer.Option("--answer-beside", help="Answer while the next one trains")] = False,
) -> None:
    """Run the experiments of a study on this machine by the stages alone; start it again to continue."""
    runner = Runner(folder, keep, commit, weights=weights, prepare_only=prepare_only, beside=beside)
    failures: list[str] = []
    signal.signal(signal.SIGTERM, runner.stop)
    signal.signal(signal.SIGINT, runner.stop)
    members, devices = read_study(study, names or ()), gpus.split(",")
    check_gpus(members, devices, gpus)
    with ThreadPoolExecutor(len(devices)) as preparing:
        waiting = [(member, preparing.submit(runner.prepare, member)) for member in members]
        workers = [threading.Thread(target=work, args=(runner, waiting, gpu, failures)) for gpu in devices]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failures:
        raise StageError("; ".join(failures))
    if runner.stopping.is_set():
        print("stopped; start the same command again to continue", flush=True)
        sys.exit(INTERRUPTED)


def check_gpus(members: Sequence[Member], devices: Sequence[str], gpus: str) -> None:
    """Raise StageError for a wrong `--gpus`, and for an experiment that none of its entries can train."""
    for device in devices:
        if device and not all(index.isdecimal() for index in device.split("+")):
            raise StageError(f"--gpus is {gpus!r}; allowed are indices such as 0,1 or, two for one training, 0+1,2")
    for member in members:
        if not any(shares(member, device) for device in devices):
            micro_batches = member.experiment.train.accumulation
            raise StageError(
                f"{member.label}: train.accumulation is {micro_batches}, which no entry of --gpus {gpus} divides: add "
                "an entry of fewer GPUs, or set it to a multiple and reduce train.batch likewise"
            )


def shares(member: Member, device: str) -> bool:
    """Whether the GPUs of an entry of `--gpus` can share the micro-batches of an update."""
    return member.experiment.train.accumulation % (device.count("+") + 1) == 0


def work(runner: Runner, waiting: list[tuple[Member, Future[Path]]], gpu: str, failures: list[str]) -> None:
    """Run waiting experiments, one after another, on one entry of `--gpus`; one that fails does not stop the others.

    Each is answered before the next is trained, or with runner.beside meanwhile.
    """
    answers: list[Future[bool]] = []
    with ThreadPoolExecutor(1) as answering:
        while not runner.stopping.is_set():
            with runner.taking:
                index = next((i for i, (member, _) in enumerate(waiting) if shares(member, gpu)), None)
                if index is None:
                    break
                member, prepared = waiting.pop(index)
            trained = attempt(runner, member, prepared, gpu, "train", failures)
            if trained and not runner.prepare_only:
                answers.append(answering.submit(attempt, runner, member, prepared, gpu, "answer", failures))
                if not runner.beside:
                    answers[-1].result()
    for answered in answers:
        answered.result()  # Raises what went wrong in our own code.


def attempt(
    runner: Runner,
    member: Member,
    prepared: Future[Path],
    gpu: str,
    action: Literal["train", "answer"],
    failures: list[str],
) -> bool:
    """Train or answer a prepared experiment; False if that failed, which is added to `failures`, or was interrupted."""
    try:
        place = prepared.result()
        if runner.prepare_only:
            print(f"{member.label}: prepared in {place}", flush=True)
        elif action == "train":
            runner.train(member, place, gpu)
        else:
            print(f"{member.label}: kept in {runner.answer(member, place, gpu)}", flush=True)
    except Interrupted:
        return False
    except (StageError, ConfigurationError, checkpoints.CheckpointError, OSError) as error:
        failures.append(f"{member.label}: {error}")
        print(f"{member.label} failed: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    typer.run(main)
