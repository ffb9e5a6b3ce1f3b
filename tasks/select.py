"""Stage `select`: scores every candidate by inference on the validation split and names best, halfway, late and final.

With criterion 'validation-loss' it also measures that loss, which then decides.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.config.evaluation import Evaluation, Select
from model.diffusion.schedule import cosine_schedule, levels
from model.puzzles.grids import Grid
from model.scoring.proposals import collect_proposals
from model.scoring.scores import attempts_of, score
from model.storage.atomic import copy, write_json
from model.storage.checkpoints import Description, check_intact, describe, load
from model.training.validation import Validation
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import StageError, stage
from tasks.files.tables import read_solutions, read_validation
from tasks.machine.answers import answers
from tasks.machine.device import choose

LAB_SIZE_WEIGHT = 0.1


@stage("select")
def main() -> None:
    """Write data/checkpoints/{best,halfway,late,final} and selection.json."""
    experiment = resolved()
    stems = sorted(path.with_suffix("") for path in paths.CANDIDATES.glob("*.json"))
    check_complete([check_intact(stem) for stem in stems])
    results = [measure(stem, experiment.select, experiment.seed) for stem in stems]
    by_loss = experiment.select.criterion == "validation-loss"
    if by_loss:
        for stem, result in zip(stems, results, strict=True):
            result["validation_loss"] = validation_loss(stem, experiment.select, experiment.seed)
    best = max(range(len(stems)), key=lambda i: (*preference(results[i], experiment.select), i))
    steps = [result["step"] for result in results]
    # There may be no candidate exactly there, as after an early stop: take the first one after that.
    halfway, late = (next(i for i, step in enumerate(steps) if step >= share * steps[-1]) for share in (0.5, 0.75))
    chosen = {"best": stems[best], "halfway": stems[halfway], "late": stems[late], "final": stems[-1]}
    for name, stem in chosen.items():
        for suffix in (".safetensors", ".json"):
            copy(stem.with_suffix(suffix), paths.CHECKPOINTS / f"{name}{suffix}")
    write_json(
        paths.SELECTION,
        {
            "selected_on": experiment.prepare.validation,
            "on_the_reported_set": experiment.prepare.validation == "evaluation-solutions",
            "criterion": experiment.select.criterion,
            "evaluation": experiment.select.model_dump(mode="json", exclude={"criterion"}),
            "candidates": results,
            **{name: describe(stem).step for name, stem in chosen.items()},
        },
    )
    for result in results:
        loss = f", validation loss {result['validation_loss']:.4f}" if by_loss else ""
        print("update {step}: pass@2 {pass_at_2:.3f}, cells right {cell_accuracy:.3f}".format(**result) + loss)
    print(f"best by {experiment.select.criterion} is the candidate after update {results[best]['step']}")


def preference(result: Mapping[str, Any], config: Select) -> tuple[float, ...]:
    """Candidates with a greater one are better; of equal ones the later is."""
    if config.criterion == "validation-loss":
        return (-result["validation_loss"],)
    return result["pass_at_2"], result["cell_accuracy"]


def validation_loss(stem: Path, evaluation: Evaluation, seed: int) -> float:
    """The lab's loss of one candidate on the validation pairs: that of cells, and 0.1 of that of sizes (ledger, B7)."""
    device = choose()
    network, description = load(stem, device, evaluation.weights)
    config = description.train
    table = levels(cosine_schedule(config.noise), config.network.time_input, device)
    pairs = read_validation(paths.TRAINING_VIEWS)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        measured = Validation(pairs, config, table, seed).measure(network)
    return measured["validation_cross_entropy"] + LAB_SIZE_WEIGHT * measured["validation_size_cross_entropy"]


def check_complete(candidates: Sequence[Description]) -> None:
    """Refuse candidates that are not all those of one training. Raises StageError."""
    if not candidates:
        raise StageError(f"{paths.CANDIDATES} has no candidates; run the stage train again")
    last = candidates[-1]
    every = last.optimizer_steps // last.train.candidates
    expected_steps = list(range(every, last.step + 1, every))
    if last.stopped_early and last.step % every:
        expected_steps.append(last.step)
    steps = [candidate.step for candidate in candidates]
    if (not last.stopped_early and last.step != last.optimizer_steps) or steps != expected_steps:
        raise StageError(
            f"{paths.CANDIDATES} has the candidates after {steps} updates, but the training of {last.optimizer_steps} "
            f"updates writes one every {every}; run the stage train again"
        )
    own = {"step", "stopped_early"}
    if any(candidate.model_dump(exclude=own) != last.model_dump(exclude=own) for candidate in candidates):
        raise StageError(f"{paths.CANDIDATES} has candidates of several trainings; run the stage train again")


def measure(stem: Path, evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Score of one candidate on the validation split, and its cell accuracy (0 for a grid of the wrong size)."""
    predicted, dataset, names = answers(stem, "validation", evaluation, seed)
    solutions = read_solutions("validation")
    grids: dict[tuple[str, int], list[tuple[Grid, int]]] = {}
    cells = []
    for answer in sorted(predicted, key=lambda a: (a.pair, a.attempt, a.view)):
        key = names[dataset.pairs.task[answer.pair]], int(dataset.pairs.number[answer.pair])
        grids.setdefault(key, []).append((answer.grid, evaluation.number(answer.view, answer.attempt)))
        solution = solutions[key[0]][key[1]]
        cells.append(np.mean(answer.grid == solution) if answer.grid.shape == solution.shape else 0.0)
    task_names = sorted({names[task] for task in dataset.pairs.task})
    views = {key: collect_proposals(*zip(*proposed, strict=True)) for key, proposed in grids.items()}
    attempts = attempts_of(views, evaluation)
    result = score({name: solutions[name] for name in task_names}, attempts, views, resamples=1000)
    del result["tasks"], result["solved_tasks"], result["partly_solved_tasks"]
    return {"step": describe(stem).step, "cell_accuracy": float(np.mean(cells)), **result}


if __name__ == "__main__":
    main()
