"""Stage `score`: replays the vote from stored predictions and scores it with the test solutions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from model.config.evaluation import Score
from model.puzzles.grids import Grid
from model.scoring.diagnostics import copying, signs, trajectory, warnings
from model.scoring.replay import Replay, best_weight
from model.scoring.scores import Key, attempts_of, score
from model.scoring.wording import caveats, interval, marks, percent
from model.storage import sealed
from tasks.common import paths
from tasks.common.documents import read_json
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files import predictions
from tasks.files.proposals import proposals
from tasks.files.submission import submission, write
from tasks.files.tables import read_pairs, read_solutions, solutions_path


@stage("score")
def main(
    checkpoint: Annotated[str, typer.Argument(help="best, halfway, late or final")],
    evaluation: Annotated[str, typer.Argument(help="A name under `evaluations` of the parameters")],
) -> None:
    """Write data/scores/CHECKPOINT-EVALUATION.json and the official submission."""
    experiment = resolved()
    config, path = experiment.score, paths.predictions(checkpoint, evaluation)
    frame, source = predictions.read(path)
    if source.experiment.split("/")[-1] != experiment.dataset:
        raise StageError(
            f"{path} is of {source.experiment}, but {paths.EXPERIMENT} is of dataset {experiment.dataset!r}; set "
            "dataset in params.yaml to that of the predictions, or run the stage predict again"
        )
    subset = source.evaluation.subset
    if subset == "evaluation" and source.leaks and not config.allow_leaks:
        raise StageError(
            f"{source.leaks} evaluated pairs were trained on, here (see {paths.LEAKS}) or by the "
            "checkpoint it started from; set prepare.leaks: drop and train again, or score.allow_leaks: true to score "
            "anyway, with a caveat"
        )
    solutions = limited(read_solutions(subset), source)
    check(path, frame, source, solutions)
    inputs = {key: grid for key, (grid, _) in read_pairs(subset).items()}
    result, attempts = scored(frame, source, solutions, inputs, config)
    selection = read_json(paths.SELECTION)
    result |= {
        "checkpoint": checkpoint,
        **marks(checkpoint, selection, experiment.fetch),
    }

    paths.SCORES.mkdir(parents=True, exist_ok=True)
    sealed.write(paths.score(checkpoint, evaluation), result)
    tests = {name: len(grids) for name, grids in solutions.items()}
    write(paths.submission(checkpoint, evaluation), submission(tests, attempts))
    print(
        f"{checkpoint}-{evaluation}: pass@2 {percent(result['pass_at_2'])} % [{interval(result['ci95'])}], "
        f"{result['grids_solved']} of {result['n_grids']} grids, {result['n_tasks']} tasks"
        + "".join(f"; {caveat}" for caveat in [*caveats(result), *result["warnings"]])
    )
    if subset == "validation" and source.evaluation.ranking:
        votes, best = result["votes"]["likelihood_weights"][0], best_weight(result["votes"]["likelihood_weights"])
        print(
            f"best on these tasks: score.likelihood {{weight: {best['weight']:g}, per: {best['per']}}}, pass@2 "
            f"{percent(best['pass_at_2'])} %, pass@1 {percent(best['pass_at_1'])} %; votes alone "
            f"{percent(votes['pass_at_2'])} %, {percent(votes['pass_at_1'])} %"
        )
    for name, test in result["missing"]:
        print(f"task {name}, test {test} has no answer and counts as wrong")


def limited(solutions: Mapping[str, Sequence[Grid]], source: predictions.Source) -> dict[str, Sequence[Grid]]:
    """The solutions of the tasks that the evaluation asks."""
    return dict(sorted(solutions.items())[: source.evaluation.limit or None])


def scored(
    frame: pd.DataFrame,
    source: predictions.Source,
    solutions: Mapping[str, Sequence[Grid]],
    inputs: Mapping[Key, Grid],
    config: Score,
) -> tuple[dict[str, Any], dict[Key, list[Grid]]]:
    """The score of predictions that `check` accepts, and the attempts of each test input.

    `inputs` are the test inputs. The caller adds what the predictions do not know: the name of their checkpoint and how
    it was selected.
    """
    views = proposals(frame, source.evaluation)
    if config.rule == "likelihood" and source.evaluation.voting and source.evaluation.ranking is None:
        name = source.evaluation_name
        raise StageError(
            f"score.rule is 'likelihood', but the predictions of {name} hold no likelihoods; set "
            f"evaluations.{name}.ranking, such as {{candidates: 4, views: 16, levels: 8}}, or another rule"
        )
    vote_rule = config.rule, config.size_first, config.views, config.likelihood
    attempts = attempts_of(views, source.evaluation, *vote_rule)
    result = score(solutions, attempts, views, config.bootstrap)
    result |= diagnosis(frame, solutions, attempts, inputs)
    if source.evaluation.voting:
        replay = Replay(solutions, views)
        voters = config.views or replay.views
        result["votes"] = {
            "rule": config.rule,
            "size_first": config.size_first,
            "views": voters,
            "curve": replay.curve(config.rule, config.size_first, config.bootstrap, config.likelihood),
            "rules": replay.rules(voters, config.bootstrap, config.likelihood),
            **replay.histogram(),
        }
        if source.evaluation.ranking:
            weights = replay.likelihood_weights(config.size_first, voters, config.bootstrap)
            result["votes"] |= {"likelihood": config.likelihood.model_dump(), "likelihood_weights": weights}
    return result | {"source": source.model_dump(mode="json")}, attempts


def check(path: Path, frame: pd.DataFrame, source: predictions.Source, solutions: Mapping[str, Sequence[Grid]]) -> None:
    """Refuse predictions that do not match these test inputs and this evaluation. Raises StageError."""
    unknown = sorted(set(frame["task"]) - set(solutions))
    if unknown:
        raise StageError(
            f"{path} answers {len(unknown)} tasks that {solutions_path(source.evaluation.subset)} lacks: "
            f"{', '.join(unknown[:3])}; they were made from other data: run the stage predict again"
        )
    test_count = frame["task"].map({name: len(grids) for name, grids in solutions.items()}).astype("int64")
    config = source.evaluation
    views, attempts = config.views, config.attempts
    for column, count in (("test", test_count), ("view", views), ("attempt", attempts)):
        wrong = frame[(frame[column] < 0) | (frame[column] >= count)]
        if len(wrong):
            row = wrong.iloc[0]
            raise StageError(
                f"{path}: task {row['task']} has an answer for {column} {row[column]}, which is out of range; "
                "run the stage predict again"
            )
    repeated = frame[frame.duplicated(["task", "test", "view", "attempt"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise StageError(f"{path}: task {row['task']}, test {row['test']}, view {row['view']} is answered twice")


def diagnosis(
    frame: pd.DataFrame,
    solutions: Mapping[str, Sequence[Grid]],
    attempts: Mapping[Key, Sequence[Grid]],
    inputs: Mapping[Key, Grid],
) -> dict[str, Any]:
    """Diagnostics of the first attempt's denoising (of view 0, where views vote), and of copying from the input.

    A kept result may lack the denoising's steps (predictions.keep); its trajectory is None then.
    """
    first = frame[(frame["view"] == 0) & (frame["attempt"] == 0)]
    denoising = None
    if len(first) and first["change"].notna().all():
        change, confidence, entropy = (
            np.stack(first[name].tolist()).astype(np.float64) for name in ("change", "confidences", "entropy")
        )
        denoising = trajectory(change, confidence, entropy, first["last_changed_step"].to_numpy(np.int64))
    answers = {(name, i): grid for name, grids in solutions.items() for i, grid in enumerate(grids)}
    copied = copying(answers, attempts, inputs)
    detected_signs = signs(denoising, copied)
    return {"trajectory": denoising, "copying": copied, "signs": detected_signs, "warnings": warnings(detected_signs)}


if __name__ == "__main__":
    typer.run(main)
