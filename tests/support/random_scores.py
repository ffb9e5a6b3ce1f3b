"""Scores made up by chance, and folders that hold them as worktrees do."""

from pathlib import Path

import numpy as np
import yaml

from model.storage import sealed
from tasks.common import paths
from tests.conftest import experiment

TASKS = [f"{i:08x}" for i in range(120)]
DIFFICULTY = np.random.default_rng(0).beta(0.3, 1.0, 120)


def made_score(seed, lift=0.0, tasks=TASKS, name="v3/tiny/aa1", **caveats):
    """A score whose tasks are solved by chance; every fourth has two test grids."""
    draws = np.random.default_rng(seed)
    results = {}
    for task in tasks:
        chance = DIFFICULTY[TASKS.index(task)] * (1 - lift) + lift
        grids = []
        for _ in range(1 + (TASKS.index(task) % 4 == 0)):
            solved = bool(draws.random() < chance)
            grids.append(
                {
                    "solved": solved,
                    "attempt_1": solved and bool(draws.random() < 0.8),
                    "attempt_2": False,
                    "any_view": solved or bool(draws.random() < 0.2),
                    "votes_for_the_answer": 0,
                    "views": 8,
                    "size": True,
                    "missing": False,
                }
            )
        results[task] = grids
    return {
        "tasks": results,
        "checkpoint": "best",
        "pass_at_2": float(np.mean([np.mean([g["solved"] for g in gs]) for gs in results.values()])),
        "selected_on_the_reported_set": caveats.get("selected", False),
        "source": {"experiment": name, "seed": 0, "leaks": caveats.get("leaks", 0), "evaluation_name": "votes"},
    }


def folder(root, score, **changes):
    """A worktree with this score, whose experiment has these changes."""
    config = experiment(dataset="aa1", **changes)
    score["source"] |= {
        "experiment": config.name,
        "seed": config.seed,
        "evaluation": config.evaluations["votes"].model_dump(mode="json"),
    }
    (root / "data/scores").mkdir(parents=True)
    (root / paths.EXPERIMENT).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    sealed.write(root / paths.score("best", "votes"), score)
    return str(root)


def values_of(score, tasks=TASKS):
    return np.array([sum(g["solved"] for g in score["tasks"][t]) / len(score["tasks"][t]) for t in tasks])


def four(root: Path) -> list[str]:
    """A base, a better one with another learning rate, and another seed of each."""
    return [
        folder(root / "a0", made_score(1)),
        folder(root / "b0", made_score(2, 0.25), train={"optimizer": {"learning_rate": 1e-3}}),
        folder(root / "a1", made_score(3), seed=1),
        folder(root / "b1", made_score(4, 0.25), train={"optimizer": {"learning_rate": 1e-3}}, seed=1),
    ]
