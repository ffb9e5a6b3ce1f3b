"""Stage `score`: replays the vote from kept predictions and scores it. The only reader of evaluation's solutions."""

import json
from typing import Annotated, Any

import typer

from model.content import write_json
from model.grids import Grid
from model.scoring import Key, attempts_of, score
from tasks import paths, predictions
from tasks.params import resolved
from tasks.stage import StageError, stage
from tasks.tables import read_solutions


@stage("score")
def main(
    checkpoint: Annotated[str, typer.Argument(help="best, halfway or final")],
    evaluation: Annotated[str, typer.Argument(help="A name under `evaluations` of the parameters")],
) -> None:
    """Write data/scores/CHECKPOINT-EVALUATION.json and the official submission."""
    config = resolved().score
    frame, source = predictions.read(paths.predictions(checkpoint, evaluation))
    if source.leaks and not config.allow_leaks:
        raise StageError(
            f"{source.leaks} evaluated pairs were trained on (see {paths.LEAKS}); set prepare.leaks: drop and train "
            "again, or score.allow_leaks: true to score nevertheless, marked as such"
        )
    solutions = read_solutions("evaluation")
    if source.evaluation.limit:
        solutions = dict(sorted(solutions.items())[: source.evaluation.limit])
    unknown = sorted(set(frame["task"]) - set(solutions))
    if unknown:
        raise StageError(f"{paths.predictions(checkpoint, evaluation)} answers tasks without a solution: {unknown[:3]}")
    views: dict[Key, list[Grid]] = {}
    for task, test, grid in zip(frame["task"], frame["test"], frame["grid"], strict=True):
        views.setdefault((task, int(test)), []).append(grid)
    attempts = attempts_of(views, source.evaluation)
    result = score(solutions, attempts, views, config.bootstrap)
    selection = json.loads(paths.SELECTION.read_text())
    marks = {"selected_on_the_reported_set": checkpoint == "best" and selection["on_the_reported_set"]}
    result |= {"checkpoint": checkpoint, "source": source.model_dump(mode="json"), **marks}
    paths.SCORES.mkdir(parents=True, exist_ok=True)
    write_json(paths.score(checkpoint, evaluation), result)
    path = paths.submission(checkpoint, evaluation)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(submission(solutions, attempts), separators=(",", ":")))
    low, high = result["ci95"]
    print(
        f"{checkpoint}-{evaluation}: pass@2 {100 * result['pass_at_2']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"{result['grids_solved']} of {result['n_grids']} grids, {result['n_tasks']} tasks"
    )


def submission(solutions: dict[str, list[Grid]], attempts: dict[Key, list[Grid]]) -> dict[str, Any]:
    """The official file: two attempts a test input; a missing one is the 1 x 1 black grid."""
    nothing = [[0]]

    def entry(key: Key) -> dict[str, Any]:
        grids = [grid.tolist() for grid in attempts.get(key, [])]
        grids = [*grids, *grids, nothing, nothing] if len(grids) == 1 else [*grids, nothing, nothing]
        return {"attempt_1": grids[0], "attempt_2": grids[1]}

    return {name: [entry((name, i)) for i in range(len(answers))] for name, answers in solutions.items()}


if __name__ == "__main__":
    typer.run(main)
