"""Every switch of an evaluation changes what it claims to change, and only that."""

import json
from typing import Any

import numpy as np
import pytest

from model.config.evaluation import Evaluation
from model.diffusion.schedule import cosine_schedule, inference_levels
from model.network.denoiser import Denoiser
from tasks.common import paths
from tasks.common.presets import ConfigurationError, merge
from tasks.machine.answers import answers
from tests.conftest import experiment
from tests.support.small_experiment import VOTING, build, save_checkpoint

ASKED = {"asked"}
GRIDS = {"answers"}

REPEATED = {"by": "repeated-votes", "repetitions": 2, "views": 4}
EXACT = {"round": 1, "attempts": 2, "swing": 1.0}
RANKED = {"candidates": 3, "views": 2, "levels": 2}
TWICE = {"by": "attempts", "count": 2}

SWITCHES: list[tuple[dict[str, Any], dict[str, Any], set[str]]] = [
    # What it is switched from beyond the base, the switch, and all that it changes.
    ({}, {"time_map": "raw-index"}, GRIDS | {"levels"}),
    ({"steps": 128}, {"time_map": "raw-index"}, set()),  # As many steps as levels: the lab's mistake is none.
    ({}, {"steps": 3}, GRIDS | {"levels", "told"}),
    ({}, {"sampler": "argmax"}, GRIDS),
    ({}, {"sampler": "posterior"}, GRIDS),
    ({}, {"sampler": "renoise"}, GRIDS),
    ({}, {"self_conditioning": "none"}, GRIDS | {"told"}),
    ({}, {"self_conditioning": "temporal"}, set()),  # as trained
    ({}, {"self_conditioning": "two-pass"}, GRIDS | {"told", "levels"}),
    ({}, {"answers": {"views": 6}}, ASKED),
    ({}, {"answers": TWICE}, ASKED),
    ({"answers": TWICE}, {"answers": {"count": 1}}, ASKED),
    ({}, {"limit": 1}, ASKED),
    ({}, {"subset": "training"}, ASKED | GRIDS | {"sizes"}),
    ({}, {"subset": "validation"}, ASKED | GRIDS | {"sizes"}),
    ({}, {"ranking": RANKED}, {"levels", "told", "ranked"}),
    ({"ranking": RANKED}, {"ranking": {"candidates": 2}}, {"ranked"}),
    ({"ranking": RANKED}, {"ranking": {"views": 1}}, {"ranked"}),
    ({"ranking": RANKED}, {"ranking": {"levels": 3}}, {"levels", "told", "ranked"}),
    ({}, {"weights": "ema"}, GRIDS | {"sizes"}),
    ({"weights": "raw"}, {"weights": "as-trained"}, set()),  # The checkpoint names its raw weights.
    ({}, {"sizes": "voted"}, GRIDS | {"sizes"}),
    ({}, {"sizes": "split"}, GRIDS | {"sizes"}),
    ({}, {"sizes": "rule"}, GRIDS | {"sizes"}),
    ({}, {"sizes": "measured"}, GRIDS | {"sizes"}),
    ({"sizes": "rule"}, {"sizes": "measured"}, set()),  # Its tasks have one demonstration each, which explains no more.
    ({"sizes": "split"}, {"sizes": "rule"}, GRIDS | {"sizes"}),
    ({}, {"sizes": "split-in-order"}, GRIDS | {"sizes"}),
    ({}, {"transposed_sizes": "unswapped"}, GRIDS | {"sizes"}),
    ({}, {"task_row": "task"}, set()),  # Only views with embeddings of their own have another; see below.
    ({}, {"answers": REPEATED}, ASKED),
    # Of a network that knows nothing every view proposes another grid, which no exact rule can decide before the end.
    ({}, {"stop_decided": EXACT}, {"levels", "told"}),  # Only that views are asked one round after the other.
    ({"stop_decided": EXACT}, {"stop_decided": {"attempts": 1, "swing": 0.1}}, ASKED | {"levels", "told"}),
]


@pytest.fixture
def look(workspace, monkeypatch):
    """What an evaluation of an untrained network asks and answers, by name."""
    config = build()
    save_checkpoint(config)
    levels = cosine_schedule(config.train.noise)
    calls: list[tuple[float, bool]] = []
    denoise = Denoiser.denoise

    def spy(self, packed, encoded, colours, time, features, gain):
        calls.append((float(time[0]), features is not None))
        return denoise(self, packed, encoded, colours, time, features, gain)

    monkeypatch.setattr(Denoiser, "denoise", spy)

    def run(switch):
        calls.clear()
        evaluation = Evaluation.model_validate(merge(VOTING, switch))
        found = list(answers(paths.CHECKPOINTS / "best", evaluation.subset, evaluation, 0)[0])
        indices = [int(np.abs(levels.log_snr.numpy() - time).argmin()) for time, _ in calls]
        return {
            "levels": indices,
            "told": [told for _, told in calls],
            "asked": {(a.pair, a.view, a.attempt) for a in found},
            "sizes": {(a.pair, a.view, a.attempt): a.grid.shape for a in found},
            "answers": {(a.pair, a.view, a.attempt): a.grid.tolist() for a in found},
            "ranked": [a.log_likelihoods.tolist() for a in found if a.log_likelihoods is not None],
        }

    return run


def test_no_switch_of_an_evaluation_is_left_out():
    tested = {name for _, switch, _ in SWITCHES for name in switch}
    assert tested == set(experiment().evaluations["votes"].model_dump())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "switch", "changes"),
    [
        pytest.param(*row, id=json.dumps(row[1]), marks=[pytest.mark.slow] if row[0].get("steps") == 128 else ())
        for row in SWITCHES
    ],
)
def test_a_switch_of_an_evaluation_changes_what_it_claims_and_only_that(look, base, switch, changes):
    before, after = look(base), look(merge(base, switch))
    found = {name for name in ("levels", "told", "asked", "ranked") if before[name] != after[name]}
    # What both were asked: fewer views or tasks leave the answers of the others as they were.
    common = before["asked"] & after["asked"]
    assert common
    for name in ("sizes", "answers"):
        if any(before[name][key] != after[name][key] for key in common):
            found.add(name)
    assert found == changes


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 6, 32, 128])
@pytest.mark.parametrize("time_map", ["spaced", "raw-index"])
def test_the_network_is_told_the_levels_of_the_time_map(look, time_map, steps):
    """Ledger 2.6 and B1: before v2 the lab's 32 steps told the network levels 31 ... 0 of 128."""
    found = look({"time_map": time_map, "steps": steps})["levels"]
    lab = [round(float(x)) for x in np.linspace(127, 0, steps)] if time_map == "spaced" else [*range(steps)][::-1]
    assert found == lab == inference_levels(128, steps, time_map)
    if time_map == "raw-index" and steps == 32:
        assert float(cosine_schedule(experiment().train.noise).alpha_bar[found[0]]) == pytest.approx(0.85, abs=6e-4)


def test_more_raw_indices_than_levels_are_refused():
    with pytest.raises(ConfigurationError, match=r"attempts: steps is 129; with time_map 'raw-index' .* 128"):
        experiment(evaluations={"attempts": {"time_map": "raw-index", "steps": 129}})
