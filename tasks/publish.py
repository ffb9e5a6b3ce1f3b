"""Stage `publish`: writes the experiment to MLflow, as one run for the training with a child run per evaluation.

Keyed by content: a store gets each result once, however often it is published, whether it was computed here or taken
from DVC's cache. `--if-missing` runs outside DVC and publishes the current result to a store that lacks it.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from model.config.experiment import Experiment
from model.scoring.wording import interval, percent
from model.storage.atomic import write_json
from model.storage.digests import digest, digest_text
from tasks.common import paths
from tasks.common.params import flatten, resolved
from tasks.common.stage import StageError, stage
from tasks.files import cost
from tasks.reporting.score_table import rows
from tasks.tracking import mlflow_runs, store
from tasks.tracking.mlflow_runs import Data, Model, Point, Record, Result

CHECKPOINTS = ("best", "halfway", "final")
CODE = ("model", "tasks", "flows", "dvc.yaml", "presets.yaml")
"""Paths whose changes make the commit dirty. The run holds the parameters, and dvc.lock follows from both."""

MODEL = ("step", "optimizer_steps", "stopped_early", "weights", "data", "leaks")
"""Fields of the checkpoint's description that become parameters of the MLflow model."""

Pair = tuple[str, str]
"""Checkpoint and evaluation."""


@stage("publish")
def main(
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Write to the store only, and no file.")] = False,
) -> None:
    """Write data/reports/published.json and the runs that it names."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("publish: stopped before the end; start it again"))
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
    return f"{experiment.name} seed {experiment.seed}" + (f" {pair[0]}-{pair[1]}" if pair else "")


def matrix(experiment: Experiment) -> list[Pair]:
    """The evaluations that the experiment requests; data/scores may contain others."""
    return [(c, e) for c in experiment.predict.checkpoints for e in experiment.predict.evaluations]


def content_key(experiment: Experiment) -> str:
    """Digest of all files of the result. Raises StageError that names the missing ones."""
    stems = [paths.CHECKPOINTS / name for name in CHECKPOINTS]
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
    descriptions = {name: json.loads((paths.CHECKPOINTS / f"{name}.json").read_text()) for name in CHECKPOINTS}
    scores = {pair: json.loads(paths.score(*pair).read_text()) for pair in matrix(experiment)}
    stems = {name: paths.CHECKPOINTS / name for name in CHECKPOINTS}
    digests = {n: digest(stem.with_suffix(".safetensors"), stem.with_suffix(".json")) for n, stem in stems.items()}
    check(experiment, descriptions, digests, scores)
    identity = {
        "arc.experiment": experiment.name,
        "arc.version": experiment.version,
        "arc.size": experiment.size,
        "arc.dataset": experiment.dataset,
        "arc.seed": str(experiment.seed),
    }
    models = {
        name: Model(
            # MLflow allows none of / : . % " ' in the name of a model.
            name=f"{title(experiment)} {name}".translate(str.maketrans("/:.%\"' ", "-------")),
            step=description["step"],
            params={key: str(description[key]) for key in MODEL},
            tags={
                **identity,
                "arc.checkpoint": name,
                "arc.file": f"{stems[name]}.safetensors",
                "arc.digest": digests[name],
            },
        )
        for name, description in descriptions.items()
    }
    final = descriptions["final"]
    data = Data(
        name=experiment.dataset,
        digest=final["data"][:12],
        source=json.dumps(experiment.fetch.model_dump(mode="json")),
        profile=json.dumps({"tasks": len(final["tasks"])} | experiment.prepare.model_dump(mode="json")),
    )
    tags = identity | code()
    evaluations = [(pair[0], evaluation(experiment, pair, score, tags)) for pair, score in scores.items()]
    return Result(experiment.publish.experiment, training(experiment, scores, tags), models, evaluations, data)


def check(
    experiment: Experiment, descriptions: Mapping[str, Any], digests: Mapping[str, str], scores: Mapping[Pair, Any]
) -> None:
    """Raise StageError for scores of other checkpoints, or checkpoints of other parameters or data."""
    wanted = experiment.model_dump(mode="json")
    expected = {key: wanted[key] for key in ("seed", "train", "prepare", "augment")}
    expected |= {"experiment": experiment.name, "data": digest(paths.CELLS, paths.PAIRS, paths.TASKS)}
    for name, description in descriptions.items():
        wrong = [key for key, value in expected.items() if description[key] != value]
        if wrong:
            file = f"{paths.CHECKPOINTS}/{name}.json"
            raise StageError(f"{file} is of another {', '.join(wrong)} than {paths.EXPERIMENT}; run `dvc repro`")
    for pair, score in scores.items():
        if score["source"]["checkpoint"] != digests[pair[0]]:
            raise StageError(
                f"{paths.score(*pair)} is of another checkpoint {pair[0]} than {paths.CHECKPOINTS} has; run `dvc repro`"
            )
        if score["source"]["evaluation"] != wanted["evaluations"][pair[1]]:
            raise StageError(f"{paths.score(*pair)} is of another evaluation than {paths.EXPERIMENT}; run `dvc repro`")


def training(experiment: Experiment, scores: Mapping[Pair, Any], tags: Mapping[str, str]) -> Record:
    """The run of the training: every parameter, the curves, and the files."""
    history = json.loads(paths.HISTORY.read_text())
    selection, probes = json.loads(paths.SELECTION.read_text()), json.loads(paths.PROBES.read_text())
    leaks = {score["source"]["leaks"] for score in scores.values()}
    training_cost = cost.read(experiment)
    curves = [("train", row) for row in history] + [("validation", row) for row in selection["candidates"]]
    return Record(
        name=title(experiment),
        tags={
            **tags,
            "arc.selected_on_the_reported_set": _text(selection["on_the_reported_set"]),
            "arc.leaks": str(max(leaks)),
            **({"arc.device": training_cost["device"]} if training_cost else {}),
            "mlflow.note.content": note(experiment),
        },
        params=flatten(experiment.model_dump(mode="json")),
        points=[
            *(Point(f"{k}/{name}", value, int(row["step"])) for k, row in curves for name, value in numbers(row)),
            *(Point(f"probe/{name}", value, 0) for name, value in leaves(probes)),
            *(Point(f"pass_at_2/{c}-{e}", score["pass_at_2"], 0) for (c, e), score in scores.items()),
            *([Point("cost/training_seconds", training_cost["seconds"], 0)] if training_cost else []),
        ],
        artifacts={
            path.name: path
            for path in (paths.PAGE, paths.EXPERIMENT, paths.HISTORY, paths.PROBES, paths.SELECTION, paths.LEAKS)
        },
    )


def evaluation(experiment: Experiment, pair: Pair, score: Mapping[str, Any], tags: Mapping[str, str]) -> Record:
    """The run of one evaluation."""
    source = score["source"]
    chosen = {key: source[key] for key in ("experiment", "seed", "step", "weights")} | {"checkpoint": pair[0]}
    return Record(
        name=title(experiment, pair),
        tags={
            **tags,
            "arc.checkpoint": pair[0],
            "arc.evaluation": pair[1],
            "arc.selected_on_the_reported_set": _text(score["selected_on_the_reported_set"]),
            "arc.leaks": str(source["leaks"]),
        },
        params=flatten(
            chosen
            | {
                "evaluation": {"name": pair[1], **source["evaluation"]},
                "score": experiment.score.model_dump(mode="json"),
            }
        ),
        # At step 0 MLflow draws bars, which compare runs; the step of the checkpoint is a parameter.
        points=[Point(name, value, 0) for name, value in numbers(score)],
        artifacts={"score.json": paths.score(*pair), "submission.json": paths.submission(*pair)},
    )


def numbers(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The metrics of a row: its numbers except the step, the ends of an interval, and the count of missing answers."""
    metrics: list[tuple[str, float]] = []
    for name, value in row.items():
        if name == "missing":
            metrics.append((name, float(len(value))))
        elif name.startswith("ci95"):
            metrics += [(f"{name}_low", float(value[0])), (f"{name}_high", float(value[1]))]
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            metrics.append((name, float(value)))
    return metrics


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by name, such as ema/logits."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, float(value)


def note(experiment: Experiment) -> str:
    """The scores as a Markdown table, with their caveats."""
    head = ("evaluation", "pass@2 %", "95 % interval", "grids", "tasks", "")
    lines = [head, ["---"] * len(head)]
    for row in rows(experiment):
        grids = f"{row.grids_solved} of {row.n_grids}"
        caveats = ", ".join(f"**{caveat}**" for caveat in row.caveats)
        lines.append([row.name, percent(row.pass_at_2), interval(row.ci95), grids, str(row.n_tasks), caveats])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    }


def _text(value: bool) -> str:
    return "true" if value else "false"


if __name__ == "__main__":
    typer.run(main)
