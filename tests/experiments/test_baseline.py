"""The published baselines, scored again from their kept predictions by plain counting."""

import json
from collections import Counter

import numpy as np
import pytest
import yaml

from tasks.commands import pool
from tasks.commands.import_results import rescore
from tasks.files import predictions
from tasks.sources.arckit_tasks import from_arckit
from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "baselines"
MEASURES = (
    ("pass_at_1", "ci95_pass_at_1"),
    ("pass_at_2", "ci95"),
    ("strict", "ci95_strict"),
    ("oracle", "ci95_oracle"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "solved", "pass_at_2"),
    [
        ("v3-muon-smol-aa1/best-votes", 83, 0.1925),
        *(
            pytest.param(*expected, marks=pytest.mark.slow)
            for expected in [
                ("v3-muon-smol-aa1/final-votes", 76, 0.1775),
                ("growth-mediom-deep-35min/final-votes-measured", 186, 0.44375),
                ("growth-mediom-deep-35min/final-votes", 177, 0.4225),
                ("v3-muon-smol-aa1/best-attempts", 57, 0.13375),
                ("v3-muon-smol-aa1/halfway-attempts", 54, 0.12625),
                ("v3-muon-smol-aa1/final-attempts", 48, 0.11125),
                ("v8-20min-convolution-rearc/best-votes", 152, 0.36125),
                ("v8-20min-convolution-rearc/final-votes", 152, 0.36125),
                ("v8-20min-convolution-rearc/final-votes-one-step", 142, 0.3375),
                ("v8-20min-convolution-rearc/final-attempts", 132, 0.31375),
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


@pytest.mark.slow
def test_the_pooled_votes_score_to_the_published_number(tmp_path, capsys):
    names = [str(FOLDER / name) for name in ("v8-20min-convolution-rearc", "ours-768x8-aa1")]
    pool.main(names, tmp_path / "pooled", "final", "votes")
    assert "pass@2 38.1 % [33.4–42.9], 161 of 419 grids, 400 tasks, 43.1 minutes" in capsys.readouterr().out


PINNED = {
    "v3-muon-smol-aa1/best-votes": (
        83,
        (0.16, [0.125, 0.1975]),
        (0.1925, [0.155, 0.2325]),
        (0.1875, [0.15, 0.225]),
        (0.2325, [0.1925, 0.275]),
    ),
    "v3-muon-smol-aa1/final-attempts": (
        48,
        (0.10125, [0.07375, 0.13125]),
        (0.11125, [0.0825, 0.1425]),
        (0.105, [0.075, 0.135]),
        (0.11125, [0.0825, 0.1425]),
    ),
    "ours-768x8-aa1/best-votes": (
        142,
        (0.29625, [0.2525, 0.3425]),
        (0.335, [0.28875, 0.3825]),
        (0.3325, [0.2875, 0.3775]),
        (0.38375, [0.33625, 0.43125]),
    ),
    "ours-768x8-aa1/final-votes-argmax": (
        137,
        (0.28875, [0.245, 0.335]),
        (0.32375, [0.27875, 0.37125]),
        (0.3225, [0.2775, 0.3675]),
        (0.37375, [0.3275, 0.42125]),
    ),
}
"""Grids solved; pass@1, pass@2, strict and oracle with their 95 % intervals."""


@pytest.mark.parametrize(
    "name",
    [name if name == "v3-muon-smol-aa1/best-votes" else pytest.param(name, marks=pytest.mark.slow) for name in PINNED],
)
def test_the_stages_own_scoring_gives_the_published_intervals(name):
    path = FOLDER / f"{name}.parquet"
    source, result = rescore(path, yaml.safe_load((path.parent / "experiment.yaml").read_text()))
    solved, *shares = PINNED[name]
    assert (result["n_tasks"], result["n_grids"], result["grids_solved"]) == (400, 419, solved)
    assert source.failures == ()
    assert [(result[share], result[interval]) for share, interval in MEASURES] == shares
