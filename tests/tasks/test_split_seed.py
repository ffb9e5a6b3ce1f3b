"""The seed of an experiment draws its validation tasks."""

import json

import yaml

from tasks import prepare
from tasks.common import paths
from tests.conftest import experiment, puzzles

TRAIN, SOLVED = "arc-agi_training_challenges.json", "arc-agi_training_solutions.json"


def test_the_seed_draws_the_validation_tasks(raw):
    files = puzzles()
    task = files[TRAIN]["aaaaaaaa"]
    files[TRAIN] |= {f"{i:08x}": task for i in range(12)}
    files[SOLVED] |= {f"{i:08x}": files[SOLVED]["aaaaaaaa"] for i in range(12)}
    raw(files)
    drawn = []
    for seed in range(4):
        config = experiment(seed=seed, prepare={"validation_tasks": 5, "leaks": "keep"})
        paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        prepare.main()
        drawn.append(tuple(json.loads(paths.VALIDATION_SOLUTIONS.read_text())))
    assert {len(names) for names in drawn} == {5}
    assert len(set(drawn)) == 4
