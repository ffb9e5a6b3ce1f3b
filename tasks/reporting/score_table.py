"""The score table, one row a checkpoint and evaluation, for the terminal and the report page."""

from typing import Annotated, Any, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model.config.evaluation import Evaluation, RepeatedVotes, Votes
from model.config.experiment import Experiment
from model.scoring.wording import caveats, interval, percent, subset
from model.storage import sealed
from tasks.common import paths
from tasks.common.documents import DocumentError, read_json
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.reporting.behaviour import HEADS, Behaviour, behaviour, cells


class Row(NamedTuple):
    """One score as reported. Shares are 0..1."""

    checkpoint: str
    step: int
    """Number of updates of the checkpoint."""
    weights: str
    """ema or raw."""
    digest: str
    """Digest of the checkpoint's files."""
    data: str
    """Digest of the prepared data that was trained on."""
    evaluation: str
    settings: str
    """Steps, sampler and number of views or attempts, in words."""
    subset: str
    """Which tasks were asked: 'evaluation' or 'training'."""
    votes: int
    """Number of views that vote; 0 if there are attempts instead."""
    pass_at_1: float
    pass_at_2: float
    ci95: tuple[float, float]
    strict: float
    oracle: float
    sizes_correct: float
    grids_solved: int
    n_grids: int
    n_tasks: int
    caveats: tuple[str, ...]
    """What a reader must know before believing the score."""
    warnings: tuple[str, ...]
    """Warnings from the diagnostics of denoising and copying."""
    behaviour: Behaviour

    @property
    def name(self) -> str:
        """checkpoint-evaluation, as the files are named."""
        return f"{self.checkpoint}-{self.evaluation}"


def read_score(experiment: Experiment, checkpoint: str, evaluation: str) -> dict[str, Any]:
    """One score file. Raises StageError for a missing or broken one, or one of another experiment."""
    path = paths.score(checkpoint, evaluation)
    try:
        result = sealed.check(read_json(path), str(path))
        identity = result["source"]["experiment"], result["source"]["seed"]
    except DocumentError as error:
        advice = "run `dvc repro`" if isinstance(error.__cause__, OSError) else "run the stage score again"
        raise StageError(f"{error}; {advice}") from error
    except sealed.SealError as error:
        raise StageError(f"{error}; run the stage score again") from error
    except (KeyError, TypeError) as error:
        raise StageError(f"{path} is no score ({type(error).__name__}: {error}); run the stage score again") from error
    if identity != (experiment.name, experiment.seed):
        raise StageError(
            f"{path} belongs to {identity[0]} seed {identity[1]}, not to {experiment.name} seed {experiment.seed}; "
            "run `dvc repro`"
        )
    return result


def rows(experiment: Experiment) -> list[Row]:
    """The rows that the experiment's matrix asks for, in its order. Other files of data/scores are ignored."""
    return [
        _row(read_score(experiment, checkpoint, evaluation))
        for checkpoint in experiment.predict.checkpoints
        for evaluation in experiment.predict.evaluations
    ]


def _row(score: dict[str, Any]) -> Row:
    source = score["source"]
    evaluation = Evaluation.model_validate({"subset": subset(score), **source["evaluation"]})
    settings = [f"{evaluation.steps} steps", evaluation.sampler]
    match evaluation.answers:
        case Votes(views=views):
            settings.append(f"{views} views vote")
        case RepeatedVotes(repetitions=repetitions, views=views):
            settings.append(f"{repetitions} votes of {views} views")
        case _:
            settings.append(f"{evaluation.attempts} attempts")
    if evaluation.stop_decided:
        settings.append("no more where a vote is decided")
    if evaluation.subset != "evaluation":
        settings.append(f"{evaluation.subset} tasks")
    if evaluation.limit:
        settings.append(f"first {evaluation.limit} tasks")
    return Row(
        checkpoint=score["checkpoint"],
        step=source["step"],
        weights=source["weights"],
        digest=source["checkpoint"],
        data=source["data"],
        evaluation=source["evaluation_name"],
        settings=", ".join(settings),
        subset=evaluation.subset,
        votes=evaluation.views if evaluation.voting else 0,
        ci95=(score["ci95"][0], score["ci95"][1]),
        caveats=caveats(score),
        warnings=tuple(score["warnings"]),
        behaviour=behaviour(score),
        **{name: score[name] for name in ("pass_at_1", "pass_at_2", "strict", "oracle", "sizes_correct")},
        **{name: score[name] for name in ("grids_solved", "n_grids", "n_tasks")},
    )


def draw(title: str, scores: list[Row]) -> Table:
    """The table for a terminal."""
    table = Table(
        title=escape(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("checkpoint\nevaluation", min_width=16)  # The only one that may wrap.
    for name in ("pass\n@1", "pass\n@2", "95 %\ninterval", "\nstrict", "any view\nright", "sizes\nright"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("grids\nsolved", justify="right", no_wrap=True)
    table.add_column("\ntasks", justify="right", no_wrap=True)
    for row in scores:
        shares = [percent(share) for share in (row.strict, row.oracle, row.sizes_correct)]
        table.add_row(
            row.name + "".join(f"\n[bold yellow]{caveat}[/]" for caveat in row.caveats),
            percent(row.pass_at_1),
            f"[bold]{percent(row.pass_at_2)}[/]",
            interval(row.ci95),
            *shares,
            f"{row.grids_solved} of {row.n_grids}",
            str(row.n_tasks),
        )
    return table


def draw_behaviour(scores: list[Row]) -> Table:
    """The table of copies and trajectories for a terminal."""
    table = Table(
        title="copies and trajectories of the first attempts",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("checkpoint\nevaluation", min_width=16)
    for name in HEADS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in scores:
        caveats_ = "".join(f"\n[bold yellow]{caveat}[/]" for caveat in row.caveats)
        table.add_row(row.name + caveats_, *cells(row.behaviour))
    return table


@stage("table")
def main(
    long: Annotated[bool, typer.Option("--long", help="Add how much is copied, and how the denoising went.")] = False,
) -> None:
    """Print the score table and what to open next."""
    experiment = resolved()
    console, scores = Console(), rows(experiment)
    console.print(draw(f"{experiment.title}, seed {experiment.seed}, shares in %", scores))
    if long:
        console.print()
        console.print(draw_behaviour(scores))
        for row in scores:
            for warning in row.warnings:
                console.print(escape(f"{row.name}: {warning}"), highlight=False)
    console.print(f"open next: {paths.PAGE}; make ui", highlight=False)


if __name__ == "__main__":
    typer.run(main)
