"""`python -m tasks.commands.run_stages NAME ...`: whole experiments by the stages alone, without DVC and git.

For a machine that has a GPU and little else, such as one that is rented for an hour. Each experiment gets a folder of
its own, keyed by what it resolves to, and one GPU; as many run at once as there are GPUs. What was done is not done
again, and an interrupted training resumes: start the same command again. Of every experiment, what `arc import`
publishes is kept.
"""

import datetime
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from model.config.experiment import Experiment
from model.storage.atomic import atomic_path, write_json
from model.storage.digests import digest_text
from tasks.common import params, paths
from tasks.common.documents import read_json
from tasks.common.presets import ConfigurationError, parse_name
from tasks.common.stage import StageError, stage

ROOT = Path(__file__).parents[2]
KEPT = (paths.EXPERIMENT, paths.PARAMS, paths.HISTORY, paths.SELECTION, paths.PROBES)
INTERRUPTED = 128 + signal.SIGTERM


class Interrupted(Exception):
    """A stage was told to stop, or the command was before the stage started."""


class Runner:
    """Runs the stages of experiments until it is told to stop."""

    def __init__(self, folder: Path, keep: Path, commit: str) -> None:
        self.folder, self.keep, self.commit = folder.resolve(), keep.resolve(), commit
        self.stopping = threading.Event()
        self.children: set[subprocess.Popen[bytes]] = set()

    def stop(self, *_: object) -> None:
        """Tell every stage to save and stop."""
        self.stopping.set()
        for child in list(self.children):
            child.terminate()

    def run(self, name: str, values: Mapping[str, Any], gpu: str) -> Path:
        """All stages of one experiment, and the folder of what is kept. Raises StageError or Interrupted."""
        experiment = resolve(values)
        place = self.folder / digest_text(experiment.model_dump_json())[:16]
        place.mkdir(parents=True, exist_ok=True)
        (place / paths.PARAMS).write_text(yaml.safe_dump(dict(values), sort_keys=False))
        shutil.copy(ROOT / paths.PRESETS, place / paths.PRESETS)
        if (ROOT / paths.OWN).is_dir() and not (place / paths.OWN).exists():
            shutil.copytree(ROOT / paths.OWN, place / paths.OWN)
        for command in stages(experiment):
            done = place / ".done" / "-".join(command)
            if done.exists():
                continue
            started = datetime.datetime.now(datetime.UTC)
            self._stage(place, gpu, *command)
            done.parent.mkdir(exist_ok=True)
            done.write_text(f"{(datetime.datetime.now(datetime.UTC) - started).total_seconds():.1f}\n")
            self._keep(place, name)
        return self.keep / name

    def _stage(self, place: Path, gpu: str, name: str, *arguments: str) -> None:
        if self.stopping.is_set():
            raise Interrupted
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ARC_SCRATCH": ".scratch"}
        if gpu:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
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
        if self.stopping.is_set():
            raise Interrupted
        if code:
            last = (place / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise StageError(f"stage {name} in {place} ended with code {code}: {last[0]}")

    def _keep(self, place: Path, name: str) -> None:
        kept = self.keep / name
        kept.mkdir(parents=True, exist_ok=True)
        files = [place / file for file in KEPT] + sorted((place / paths.PREDICTIONS).glob("*.parquet"))
        for file in files:
            if file.exists():
                with atomic_path(kept / file.name) as temporary:
                    shutil.copyfile(file, temporary)
        costs: list[dict[str, Any]] = [read_json(file) for file in place.glob(".scratch/cost/*.json")]
        if costs:
            cost = {**costs[0], "started": (place / ".started").read_text()}
            cost["stages"] = {file.name: float(file.read_text()) for file in sorted((place / ".done").iterdir())}
            write_json(kept / "cost.json", cost | ({"commit": self.commit} if self.commit else {}))


def stages(experiment: Experiment) -> list[tuple[str, ...]]:
    """The commands of dvc.yaml up to the predictions, in order."""
    chosen = experiment.predict
    predictions = [("predict", c, e) for c in chosen.checkpoints for e in chosen.evaluations]
    return [("params", "--write"), ("fetch",), ("prepare",), ("augment",), ("train",), ("select",), *predictions]


@stage("run_stages")
def main(
    names: Annotated[list[str], typer.Argument(help="VERSION/SIZE/DATASET, one or many")],
    overrides: Annotated[Path | None, typer.Option(help="YAML file of keys over the presets")] = None,
    seeds: Annotated[str, typer.Option(help="Every experiment runs with each of them, such as 0,1")] = "0",
    keep: Annotated[Path, typer.Option(help="Folder for what is kept of each experiment")] = Path("kept"),
    folder: Annotated[Path, typer.Option(help="Folder for the experiments")] = paths.SCRATCH / "run_stages",
    gpus: Annotated[str, typer.Option(help="Indices of the GPUs, such as 0,1; '' for whatever a stage chooses")] = "",
    commit: Annotated[str, typer.Option(help="Commit of this code, for the record")] = "",
) -> None:
    """Run experiments on this machine by the stages alone; start it again to continue."""
    extra = params.read(overrides) if overrides else {}
    waiting: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    for name in names:
        for seed in seeds.split(","):
            if not seed.isdecimal():
                raise StageError(f"--seeds is {seeds!r}; expected whole numbers with commas, such as 0,1")
            values = {**parse_name(name), "seed": int(seed), **extra}
            resolve(values)
            waiting.put((f"{name.replace('/', '-')}-s{seed}", values))
    runner = Runner(folder, keep, commit)
    failures: list[str] = []
    signal.signal(signal.SIGTERM, runner.stop)
    signal.signal(signal.SIGINT, runner.stop)
    workers = [threading.Thread(target=work, args=(runner, waiting, gpu, failures)) for gpu in gpus.split(",")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise StageError("; ".join(failures))
    if runner.stopping.is_set():
        print("stopped; start the same command again to continue", flush=True)
        sys.exit(INTERRUPTED)


def resolve(values: Mapping[str, Any]) -> Experiment:
    """The experiment of these values of params.yaml. Raises ConfigurationError."""
    return params.resolve(values, params.read(ROOT / paths.PRESETS), f"{values['version']}/{values['size']}")


def work(
    runner: Runner, waiting: "queue.SimpleQueue[tuple[str, dict[str, Any]]]", gpu: str, failures: list[str]
) -> None:
    """Run waiting experiments, one after another, on one GPU; one that fails does not stop the others."""
    while not runner.stopping.is_set():
        try:
            name, values = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            print(f"{name}: kept in {runner.run(name, values, gpu)}", flush=True)
        except Interrupted:
            return
        except (StageError, ConfigurationError, OSError) as error:
            failures.append(f"{name}: {error}")
            print(f"{name} failed: {error}", flush=True)


if __name__ == "__main__":
    typer.run(main)
