"""Settings of which each is allowed, but not all of them together; and the settings next to them that are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.network.device_data import view_tokens
from model.puzzles.arrays import Views
from tasks.common.presets import ConfigurationError
from tests.conftest import experiment

TAKEN = "each source is named once, and 'training' and 'evaluation' are taken"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fetch": {"extra": ["b", "a", "a", "b"]}}, f"extra names 'a'; {TAKEN}"),
        ({"fetch": {"extra": ["training"]}}, f"extra names 'training'; {TAKEN}"),
        ({"fetch": {"extra": ["evaluation", "x"]}}, f"extra names 'evaluation'; {TAKEN}"),
        (
            {"fetch": {"edition": "arcagi2", "extra": ["arc-agi-2"]}},
            "extra names 'arc-agi-2', but edition 'arcagi2' has its training tasks already",
        ),
        ({"augment": {"voting_views": 73}}, "voting_views is 73; scheme 'all' has 72 views"),
        (
            {"augment": {"training_views": 71}},
            "scheme 'all' has 72 views: training_views and evaluation_views must be 72",
        ),
        (
            {"train": {"network": {"task_embedding": "added", "task_tokens": 2}}},
            "task_tokens is 2; with task_embedding 'added' no row embeds the task",
        ),
        (
            {"train": {"network": {"width": 24, "heads": 2}}},
            "width / heads is 12; rotary positions need a multiple of 8",
        ),
        (
            {"train": {"self_conditioning": {"rate": 0.5, "null_conditioning_rate": 0.75}}},
            "rate + null_conditioning_rate is 1.25; their sum is at most 1",
        ),
        (
            {"train": {"self_conditioning": {"rate": 0.0}}},
            "but rate is 0: answers would use a projection that was never trained; set features: none",
        ),
        (
            {"train": {"self_conditioning": {"training": "blend"}}},
            "but training is 'blend', which gives the network no estimate: answers would use a projection",
        ),
        (
            {"train": {"finetune": {"pairs": "evaluation"}, "origin_shares": {"evaluation": 0.3}}},
            "origin_shares would be ignored: finetune.pairs is 'evaluation'",
        ),
        (
            {"train": {"finetune": {"start": "s", "adapters": "lora"}, "size_loss_weight": 0.0}},
            "size_loss_weight is 0, so that the adapters of the size head would not be trained",
        ),
        (
            {"score": {"rule": "likelihood"}},
            "score.rule is 'likelihood', but evaluation 'votes' has no ranking, so that it keeps no likelihoods",
        ),
        ({"train": {"warmup_steps": 13}}, "warmup_steps 13 is more than optimizer_steps 12"),
        (
            {"train": {"early_stop": {"every": 6, "patience": 6, "improvement": 0.0}}},
            "early_stop.every is 6; it must be a multiple of log_every, 4",
        ),
        (
            {"train": {"early_stop": {"every": 4, "patience": 8, "improvement": 0.0}}},
            "early_stop.patience is 8; after the first measurement at update 4 it must end before optimizer_steps, 12, "
            "or it could never stop anything",
        ),
        ({"train": {"noise": {"steps": 1}}}, "train.noise.steps"),
        (
            {"train": {"last_share_on_evaluation": 0.03}},
            "last_share_on_evaluation is 0.03, less than one of optimizer_steps 12",
        ),
        ({"train": {"network": {"width": 100, "heads": 3}}}, "do not divide width 100; width must be a multiple of 8"),
        (
            {
                "augment": {"scheme": "permutations", "voting_views": 64, "training_views": 64, "evaluation_views": 64},
                "train": {"network": {"conditioning": "d4-colour"}},
            },
            "conditioning 'd4-colour' embeds the cycle of colours, but augment.scheme is 'permutations'",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        experiment(**changes)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"fetch": {"extra": ["a", "b", "arc-agi-2"]}},
        {"augment": {"voting_views": 72}},
        {"train": {"network": {"task_embedding": "added", "task_tokens": 1}}},
        {"train": {"network": {"width": 24, "heads": 3}}},
        {"train": {"self_conditioning": {"rate": 0.5, "null_conditioning_rate": 0.5}}},
        {"train": {"warmup_steps": 12}},
        {"train": {"early_stop": {"every": 4, "patience": 4, "improvement": 0.0}}},
    ],
)
def test_settings_at_their_limits_are_accepted(changes: Any) -> None:
    experiment(**changes)


def test_free_permutations_have_no_cycle_to_embed() -> None:
    views = Views(np.array([0]), np.array([2]), np.array([3, 5]), np.zeros((2, 10), np.uint8), np.array([4, 6]))
    network = experiment().train.network
    tokens = {
        kind: view_tokens(network.model_copy(update={"conditioning": kind}), views).tolist()
        for kind in ("task", "augmented-task", "d4")
    }
    assert tokens == {"task": [[], []], "augmented-task": [[], []], "d4": [[3], [5]]}
    free = replace(views, colour_cycle=np.array([0, -1]))
    with pytest.raises(ValueError, match=r"^conditioning 'd4-colour' embeds the colour cycle, but the views hold free"):
        view_tokens(network.model_copy(update={"conditioning": "d4-colour"}), free)
