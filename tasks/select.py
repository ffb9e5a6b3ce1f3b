"""Stage `select`: scores every candidate by inference on the validation split and names best, halfway and final."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from model.config.evaluation import Evaluation
from model.scoring.proposals import collect_proposals
from model.scoring.scores import attempts_of, score
from model.storage.atomic import write_json
from model.storage.checkpoints import describe
from tasks.common import paths
from tasks.common.params import resolved
from tasks.common.stage import stage
from tasks.files.tables import read_solutions
from tasks.machine.answers import answers


@stage("select")
def main() -> None:
    """Write data/checkpoints/{best,halfway,final} and selection.json."""
    experiment = resolved()
    stems = sorted(path.with_suffix("") for path in paths.CANDIDATES.glob("*.json"))
    results = [measure(stem, experiment.select, experiment.seed) for stem in stems]
    # Cell accuracy decides between equal scores; a later candidate wins over an earlier one.
    best = max(range(len(stems)), key=lambda i: (results[i]["pass_at_2"], results[i]["cell_accuracy"], i))
    steps = [result["step"] for result in results]
    # A training that stopped early may have no candidate exactly halfway: take the first one after that.
    halfway = next(i for i, step in enumerate(steps) if 2 * step >= steps[-1])
    chosen = {"best": stems[best], "halfway": stems[halfway], "final": stems[-1]}
    for name, stem in chosen.items():
        for suffix in (".safetensors", ".json"):
            shutil.copyfile(stem.with_suffix(suffix), paths.CHECKPOINTS / f"{name}{suffix}")
    write_json(
        paths.SELECTION,
        {
            "selected_on": experiment.prepare.validation,
            "on_the_reported_set": experiment.prepare.validation == "evaluation-solutions",
            "evaluation": experiment.select.model_dump(mode="json"),
            "candidates": results,
            **{name: describe(stem).step for name, stem in chosen.items()},
        },
    )
    for result in results:
        print("update {step}: pass@2 {pass_at_2:.3f}, cells right {cell_accuracy:.3f}".format(**result))
    print(f"best is the candidate after update {results[best]['step']}")


def measure(stem: Path, evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Score of one candidate on the validation split, and its cell accuracy (0 for a grid of the wrong size)."""
    given, dataset, names = answers(stem, "validation", evaluation, seed)
    solutions = read_solutions("validation")
    grids: dict[tuple[str, int], list[Any]] = {}
    cells = []
    for answer in sorted(given, key=lambda a: (a.pair, a.view, a.attempt)):
        key = names[dataset.pairs.task[answer.pair]], int(dataset.pairs.number[answer.pair])
        grids.setdefault(key, []).append(answer.grid)
        solution = solutions[key[0]][key[1]]
        cells.append(np.mean(answer.grid == solution) if answer.grid.shape == solution.shape else 0.0)
    known = sorted({names[task] for task in dataset.pairs.task})
    views = {key: collect_proposals(proposed) for key, proposed in grids.items()}
    attempts = attempts_of(views, evaluation)
    result = score({name: solutions[name] for name in known}, attempts, views, resamples=1000)
    del result["tasks"], result["solved_tasks"], result["partly_solved_tasks"]
    return {"step": describe(stem).step, "cell_accuracy": float(np.mean(cells)), **result}


if __name__ == "__main__":
    main()
