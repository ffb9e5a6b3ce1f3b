"""Stage `publish`: writes the experiment to MLflow, as one run for the training with a child run per evaluation.

Keyed by content: a store gets each result once, however often it is published, whether it was computed here or taken
from DVC's cache. `--if-missing` runs outside DVC and publishes the current result to a store that lacks it.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from model.config.evaluation import CheckpointName
from model.config.experiment import Experiment
from model.storage import sealed
from model.storage.atomic import write_json
from model.storage.digests import digest, digest_text
from tasks.common import paths
from tasks.common.documents import read_json, read_yaml
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files import cost
from tasks.files.tables import read_demonstrations, read_pairs
from tasks.serving import checkpoint_models
from tasks.tracking import mlflow_runs, records, store
from tasks.tracking.mlflow_runs import Data, Result
from tasks.tracking.records import Finished, Pair

ALWAYS_PUBLISHED = ("best", "halfway", "final")
"""Published always; others where they answered."""
CODE = ("model", "tasks", "flows", "dvc.yaml", "presets.yaml")
"""Paths whose changes make the commit dirty. The run holds the parameters, and dvc.lock follows from both."""

FILES = (paths.PAGE, paths.EXPERIMENT, paths.HISTORY, paths.PROBES, paths.SELECTION, paths.LEAKS)
"""Artifacts of the run of the training."""


@stage("publish")
def main(
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Write to the store only, and no file.")] = False,
) -> None:
    """Write data/reports/published.json and the runs that it names."""
    experiment, target = resolved(), store.configured_store()
    key = content_key(experiment)
    new = mlflow_runs.publish(target, key, lambda: read(experiment))
    if not if_missing:
        runs = [title(experiment), *(title(experiment, pair) for pair in matrix(experiment))]
        paths.REPORTS.mkdir(parents=True, exist_ok=True)
        write_json(paths.PUBLISHED, {"key": key, "experiment": experiment.publish.experiment, "runs": runs})
    print(f"{title(experiment)} {'published to' if new else 'is in'} {target.uri}")


def title(experiment: Experiment, pair: Pair | None = None) -> str:
    """Name of the run of the training, or of an evaluation."""
    return records.run_name(experiment.model_dump(include={"title", "seed"}), pair)


def matrix(experiment: Experiment) -> list[Pair]:
    """The evaluations that the experiment requests; data/scores may contain others."""
    return [(c, e) for c in experiment.predict.checkpoints for e in experiment.predict.evaluations]


def published(experiment: Experiment) -> tuple[str, ...]:
    """The checkpoints that become models."""
    return (*ALWAYS_PUBLISHED, *(name for name in experiment.predict.checkpoints if name not in ALWAYS_PUBLISHED))


def content_key(experiment: Experiment) -> str:
    """Digest of all files of the result. Raises StageError that names the missing ones."""
    stems = [paths.CHECKPOINTS / name for name in published(experiment)]
    parts = [
        *(paths.EXPERIMENT, paths.HISTORY, paths.PROBES, paths.SELECTION, paths.LEAKS),
        *(stem.with_suffix(suffix) for stem in stems for suffix in (".json", ".safetensors")),
        *(file(*pair) for pair in matrix(experiment) for file in (paths.score, paths.submission)),
    ]
    # The page is drawn from the other files: another layout is not another result.
    missing = [str(part) for part in [*parts, paths.PAGE] if not part.exists()]
    if missing:
        raise StageError(f"the result is incomplete: no {', '.join(missing)}; run `dvc repro`")
    return digest_text(json.dumps({str(part): digest(part) for part in parts}, sort_keys=True))[:32]


def read(experiment: Experiment) -> Result:
    """The whole result. Raises StageError if its parts do not belong together."""
    descriptions = {name: read_sealed(paths.CHECKPOINTS / f"{name}.json") for name in published(experiment)}
    scores = {pair: read_sealed(paths.score(*pair)) for pair in matrix(experiment)}
    stems = {name: paths.CHECKPOINTS / name for name in descriptions}
    digests = {n: digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")) for n, stem in stems.items()}
    check(experiment, descriptions, digests, scores)
    spent, commit, hashes = cost.read(experiment), code(), dvc_hashes()
    finished = Finished(
        parameters=experiment.model_dump(mode="json"),
        history=read_json(paths.HISTORY),
        selection=read_json(paths.SELECTION),
        probes=read_json(paths.PROBES),
        scores=scores,
        cost=spent,
        times=(spent["started"], spent["ended"]) if spent and "started" in spent else None,
        code=commit,
        note=restore_note(commit, hashes),
        extra=hashes,
        files={path.name: path for path in FILES},
        answers={p: {"score.json": paths.score(*p), "submission.json": paths.submission(*p)} for p in scores},
    )
    models = checkpoint_models.models(experiment, stems, descriptions, finished.tags, served_pairs(), served_example())
    final = descriptions["final"]
    data = Data(
        name=experiment.dataset,
        digest=final["data"][:12],
        source=json.dumps(experiment.fetch.model_dump(mode="json")),
        profile=json.dumps({"tasks": len(final["tasks"])} | experiment.prepare.model_dump(mode="json")),
    )
    evaluations = [(pair[0], records.evaluation(finished, pair)) for pair in scores]
    training = records.training(finished)
    return Result(experiment.publish.experiment, training, models, evaluations, data, cost.training_key(experiment))


def served_pairs() -> list[dict[str, Any]]:
    """The training pairs, with which a model in MLflow recognises its tasks."""
    return [
        {"task": task, "number": number, "input": before.tolist(), "output": None if after is None else after.tolist()}
        for (task, number), (before, after) in read_pairs("train").items()
    ]


def served_example() -> dict[str, Any]:
    """The first evaluation task as official JSON."""
    (name, _), *_ = keys = sorted(read_pairs("evaluation"))
    demonstrations, pairs = read_demonstrations(), read_pairs("evaluation")
    train = [{"input": before.tolist(), "output": after.tolist()} for before, after in demonstrations[name]]
    return {name: {"train": train, "test": [{"input": pairs[key][0].tolist()} for key in keys if key[0] == name]}}


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON file with a digest of its content. Raises ValueError with the path."""
    return sealed.check(read_json(path), str(path))


def check(
    experiment: Experiment, descriptions: Mapping[str, Any], digests: Mapping[str, str], scores: Mapping[Pair, Any]
) -> None:
    """Raise StageError for scores of other checkpoints, or checkpoints of other parameters or data."""
    parameters = experiment.model_dump(mode="json")
    expected = {key: parameters[key] for key in ("seed", "train", "prepare", "augment")}
    expected |= {"experiment": experiment.name, "data": digest(paths.CELLS, paths.PAIRS, paths.TASKS)}
    for name, description in descriptions.items():
        weights = paths.CHECKPOINTS / f"{name}.safetensors"
        if description["weights_digest"] != digest(weights):
            raise StageError(f"{weights} is damaged or belongs to another checkpoint; run `dvc repro`")
        wrong = [key for key, value in expected.items() if description[key] != value]
        if wrong:
            file = f"{paths.CHECKPOINTS}/{name}.json"
            raise StageError(f"{file} is of another {', '.join(wrong)} than {paths.EXPERIMENT}; run `dvc repro`")
    for pair, score in scores.items():
        if score["source"]["checkpoint"] != digests[pair[0]]:
            raise StageError(
                f"{paths.score(*pair)} is of another checkpoint {pair[0]} than {paths.CHECKPOINTS} has; run `dvc repro`"
            )
        if score["source"]["evaluation"] != parameters["evaluations"][pair[1]]:
            raise StageError(f"{paths.score(*pair)} is of another evaluation than {paths.EXPERIMENT}; run `dvc repro`")


def code() -> dict[str, str]:
    """Tags: the current commit, and whether the code differs from it; empty outside of a git repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": _text(bool(git("status", "--porcelain", "--", *CODE))),
        "mlflow.source.name": "python -m tasks.publish",
        "mlflow.source.type": "LOCAL",
        **({"arc.branch": branch} if (branch := git("branch", "--show-current")) else {}),
    }


def dvc_hashes() -> dict[str, str]:
    """Tags: DVC's hash of each checkpoint's weights, by dvc.lock; {} before DVC has written them there."""
    if not paths.LOCK.exists():
        return {}
    stages = (read_yaml(paths.LOCK) or {}).get("stages", {})
    outs = {out["path"]: out.get("md5", "") for entry in stages.values() for out in entry.get("outs", [])}
    stems = {name: paths.CHECKPOINTS / f"{name}.safetensors" for name in get_args(CheckpointName)}
    return {f"arc.dvc.{name}": outs[str(path)] for name, path in stems.items() if outs.get(str(path))}


def restore_note(tags: Mapping[str, str], hashes: Mapping[str, str]) -> str:
    """Markdown: how to get the result back."""
    lines = []
    if commit := tags.get("mlflow.source.git.commit"):
        lines.append(f"Restore where dvc.lock is committed: `git switch --detach {commit[:12]} && dvc checkout`")
    for tag, md5 in hashes.items():
        lines.append(f"- weights {tag.rpartition('.')[2]}: `.dvc/cache/files/md5/{md5[:2]}/{md5[2:]}`")
    return "\n".join(lines)


def _text(value: bool) -> str:
    return "true" if value else "false"


if __name__ == "__main__":
    typer.run(main)
