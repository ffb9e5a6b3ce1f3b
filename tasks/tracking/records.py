"""What a run in MLflow says about an experiment: names, tags, parameters, curves, scores and notes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config.experiment import experiment_name
from model.scoring.wording import caveats, interval, percent, subset
from model.scoring.wording import headline as stands_for
from tasks.common.params import flatten
from tasks.common.presets import LAYERS
from tasks.tracking import view
from tasks.tracking.mlflow_runs import Point, Record

Pair = tuple[str, str]
"""Checkpoint and evaluation."""

HELD_OUT_PREFIX = "validation_"
"""Begins the keys of the history that are of held-out pairs."""


@dataclass(frozen=True)
class Finished:
    """A finished experiment, read from its files. Shares are 0..1, times are in seconds."""

    parameters: Mapping[str, Any]
    """The resolved experiment, by section."""
    history: Sequence[Mapping[str, float]]
    selection: Mapping[str, Any]
    probes: Mapping[str, Any]
    scores: Mapping[Pair, Mapping[str, Any]]
    cost: Mapping[str, Any] | None
    """`seconds` and `device` of the training; None if unknown."""
    code: Mapping[str, str]
    """Tags that name the commit."""
    files: Mapping[str, Path]
    """Artifacts of the training's run, by name."""
    answers: Mapping[Pair, Mapping[str, Path]]
    """Artifacts of each evaluation's run, by name."""
    times: tuple[float, float] | None = None
    """Start and end of the training in Unix time; None if unknown."""
    note: str = ""
    """Markdown that stands below the scores."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further tags of every run."""

    @property
    def name(self) -> str:
        """VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET."""
        return named(self.parameters)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of all its runs."""
        return {"arc.experiment": self.name, **identity(self.parameters), **self.code, **self.extra}


def named(parameters: Mapping[str, Any]) -> str:
    """VERSION[+FINETUNING]/SIZE[+BUDGET]/DATASET. Raises KeyError."""
    names = {"finetuning": "none", "budget": "own", **parameters}
    return experiment_name(**{kind: str(names[kind]) for kind in LAYERS})


def identity(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Tags with the title, what it adds to the name, the names and the seed."""
    names = {f"arc.{part}": str(parameters[part]) for part in ("version", "size", "dataset", "seed")}
    title = str(parameters["title"])
    return {"arc.title": title, "arc.differs": title.removeprefix(named(parameters)).strip(), **names}


def run_name(parameters: Mapping[str, Any], pair: Pair | None = None) -> str:
    """Name of the run of the training of a resolved experiment, or of an evaluation: its title and seed."""
    return f"{parameters['title']} seed {parameters['seed']}" + (f" {pair[0]}-{pair[1]}" if pair else "")


def training(finished: Finished) -> Record:
    """The run of the training: every parameter, the curves, the scores, and the files."""
    leaks = {score["source"]["leaks"] for score in finished.scores.values()}
    curves = [curve for row in finished.history for curve in by_pairs(row)]
    curves += [("validation", row) for row in finished.selection["candidates"]]
    cost = finished.cost
    return Record(
        name=run_name(finished.parameters),
        tags={
            **finished.tags,
            view.HEADLINE: headline(finished.scores),
            **{view.scored("-".join(pair)): _with_interval(score) for pair, score in finished.scores.items()},
            "arc.selected_on_the_reported_set": _text(finished.selection["on_the_reported_set"]),
            "arc.leaks": str(max(leaks, default=0)),
            **_edition(next(iter(finished.scores.values()), {})),
            **({"arc.device": cost["device"]} if cost else {}),
            "mlflow.note.content": note(finished),
        },
        params=flatten(finished.parameters),
        points=[
            *(Point(f"{k}/{name}", value, int(row["step"])) for k, row in curves for name, value in numbers(row)),
            *(Point(f"probe/{name}", value, 0) for name, value in leaves(finished.probes)),
            *(Point(name, value, 0) for name, value in _summary(finished.scores)),
            *([Point("cost/training_seconds", cost["seconds"], 0)] if cost else []),
            *([Point("cost/training_minutes", round(cost["seconds"] / 60, 2), 0)] if cost else []),
        ],
        artifacts=finished.files,
        times=finished.times,
    )


def by_pairs(row: Mapping[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """A row of the history in two: 'train', and 'validation' with what was measured on held-out pairs, if anything."""
    held_out = {k.removeprefix(HELD_OUT_PREFIX): value for k, value in row.items() if k.startswith(HELD_OUT_PREFIX)}
    yield "train", {name: value for name, value in row.items() if not name.startswith(HELD_OUT_PREFIX)}
    if held_out:
        yield "validation", {"step": row["step"], **held_out}


def evaluation(finished: Finished, pair: Pair) -> Record:
    """The run of one evaluation."""
    score = finished.scores[pair]
    source = score["source"]
    chosen = {key: source[key] for key in ("experiment", "seed", "step", "weights")} | {"checkpoint": pair[0]}
    return Record(
        name=run_name(finished.parameters, pair),
        tags={
            **finished.tags,
            "arc.checkpoint": pair[0],
            "arc.evaluation": pair[1],
            "arc.caveats": "; ".join(caveats(score)),
            "arc.pass_at_2": _with_interval(score),
            "arc.selected_on_the_reported_set": _text(score["selected_on_the_reported_set"]),
            "arc.leaks": str(source["leaks"]),
            **_edition(score),
        },
        params=flatten(
            chosen
            | {"evaluation": {"name": pair[1], **source["evaluation"]}, "score": dict(finished.parameters["score"])}
        ),
        # At step 0 MLflow draws bars, which compare runs; the step of the checkpoint is a parameter.
        points=[Point(name, value, 0) for name, value in [*numbers(score), *diagnostics(score)]],
        artifacts=finished.answers[pair],
    )


def _edition(score: Mapping[str, Any]) -> dict[str, str]:
    """A tag that says which edition of ARC-AGI-2 a score is of, if it is of that set."""
    return {"arc.edition": score["edition"]} if score.get("edition") else {}


def headline(scores: Mapping[Pair, Mapping[str, Any]]) -> str:
    """The evaluation that stands for the experiment and its pass@2 in per cent: "best-votes 33.5 [28.9–38.2]"."""
    pair = _chosen(scores)
    return f"{'-'.join(pair)} {_with_interval(scores[pair])}"


def _chosen(scores: Mapping[Pair, Mapping[str, Any]]) -> Pair:
    evaluation_pairs = [pair for pair, score in scores.items() if subset(score) == "evaluation"]
    names = {"-".join(pair): pair for pair in evaluation_pairs or scores}
    return names[stands_for(names)]


def note(finished: Finished) -> str:
    """The scores as a Markdown table, with their caveats."""
    head = ("evaluation", "pass@2 %", "95 % interval", "grids", "tasks", "")
    lines = [head, ["---"] * len(head)]
    for (checkpoint, name), score in finished.scores.items():
        grids = f"{score['grids_solved']} of {score['n_grids']}"
        warnings = ", ".join(f"**{caveat}**" for caveat in caveats(score))
        shown = percent(score["pass_at_2"]), interval(score["ci95"])
        lines.append([f"{checkpoint}-{name}", *shown, grids, str(score["n_tasks"]), warnings])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{finished.note}" if finished.note else table


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


def diagnostics(score: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Numbers of copying, of the denoising's trajectory and the signs (1 where one shows), such as copying/copy_rate.

    Curves over the steps are in the score's file; what was not measured is left out.
    """
    return [
        (f"{section}/{name}", float(value))
        for section in ("copying", "trajectory", "signs")
        for name, value in (score.get(section) or {}).items()
        if isinstance(value, bool | int | float)
    ]


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by name, such as ema/logits."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, float(value)


def _summary(scores: Mapping[Pair, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """pass@2 and the ends of its interval, per evaluation."""
    for (checkpoint, name), score in scores.items():
        low, high = score["ci95"]
        yield f"pass_at_2/{checkpoint}-{name}", score["pass_at_2"]
        yield f"pass_at_2_low/{checkpoint}-{name}", low
        yield f"pass_at_2_high/{checkpoint}-{name}", high
    yield view.METRIC, scores[_chosen(scores)]["pass_at_2"]


def _with_interval(score: Mapping[str, Any]) -> str:
    return f"{percent(score['pass_at_2'])} [{interval(score['ci95'])}]"


def _text(value: bool) -> str:
    return "true" if value else "false"
