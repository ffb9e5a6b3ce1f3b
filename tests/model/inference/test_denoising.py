"""The samplers with a network whose estimate is known."""

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.diffusion import SelfConditioning
from model.config.evaluation import Attempts, Evaluation, SamplerName
from model.diffusion.schedule import cosine_schedule, inference_levels, levels
from model.inference.denoising import denoise
from model.inference.samplers import SAMPLERS, least_confident
from model.ops.keyed_random import hash_key
from tests.conftest import experiment

NOISE = experiment().train.noise
TOLD = experiment().train.self_conditioning


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 1000), st.floats(0, 1))
@settings(deadline=None)
def test_the_least_confident_are_counted_within_their_own_grid(lengths, seed, share):
    confidence = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, sum(lengths)) / 4).float()
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    found = least_confident(confidence, sequence, torch.tensor(lengths), torch.full((sum(lengths),), share))
    start = 0
    for length in lengths:
        own = confidence[start : start + length].tolist()
        count = int(torch.tensor(np.float32(share) * length).round())
        expected = sorted(range(length), key=lambda i: (own[i], i))[:count]
        assert sorted(expected) == found[start : start + length].nonzero().flatten().tolist()
        start += length


class Known:
    """A network that has the clean colours for certain, and writes down what it is told."""

    def __init__(self, clean):
        self.clean, self.told = clean, []

    def encode(self, packed):
        return SimpleNamespace(size_logits=torch.arange(3.0))

    def denoise(self, packed, encoded, colours, time, features, gain):
        self.told.append(features)
        return 40.0 * torch.nn.functional.one_hot(self.clean, 10).float()


def _denoise(steps, sampler, self_conditioning="as-trained", how=TOLD, grids=40, side=30):
    cells = side * side
    clean = torch.randint(10, (grids * cells,), generator=torch.Generator().manual_seed(0))
    packed = SimpleNamespace(
        target_example=torch.repeat_interleave(torch.arange(grids), cells),
        target_cell=torch.arange(cells).repeat(grids),
        target_segments=SimpleNamespace(query_starts=torch.arange(grids + 1) * cells),
    )
    network = Known(clean)
    config = Evaluation(
        weights="as-trained",
        steps=steps,
        time_map="spaced",
        sampler=sampler,
        self_conditioning=self_conditioning,
        answers=Attempts(by="attempts", count=1),
        sizes="own",
        transposed_sizes="swapped",
        task_row="view",
        stop_decided=None,
        ranking=None,
        subset="evaluation",
        limit=0,
    )
    table = levels(cosine_schedule(NOISE), "log-snr", torch.device("cpu"))
    return denoise(network, packed, table, how, config, hash_key(0, torch.arange(grids))), network


@pytest.mark.parametrize("sampler", ["draw", "argmax", "posterior", "renoise"])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_every_sampler_ends_at_the_estimate_and_passes_through_its_noise(sampler, steps):
    found, network = _denoise(steps, sampler)
    assert torch.equal(found.colours, network.clean)
    assert len(found.frames) == steps + 1  # Few steps: all are kept.
    right = (found.frames == network.clean).float().mean(-1)
    assert right[0] == pytest.approx(0.1, abs=0.01)
    alpha_bars = cosine_schedule(NOISE).alpha_bar[inference_levels(NOISE.steps, steps)]
    for step in range(1, steps):
        # After a step the grid has the noise of the next level, or none where the whole estimate is taken.
        kept = 1.0 if sampler in ("draw", "argmax") else float(alpha_bars[step])
        assert right[step] == pytest.approx(kept + (1 - kept) / 10, abs=0.01)
    moved = (found.frames[1:] != found.frames[:-1]).float().mean(-1)
    assert found.change.mean(-1) == pytest.approx(moved, abs=1e-4)
    assert (found.confidence > 0.999).all()
    assert (found.entropy < 0.01).all()


@pytest.mark.parametrize("sampler", ["draw", "posterior", "renoise"])
def test_the_draws_belong_to_the_grid_and_not_to_its_batch(sampler):
    many, _ = _denoise(4, sampler, grids=12, side=5)
    few, _ = _denoise(4, sampler, grids=3, side=5)
    assert torch.equal(many.frames[:, : 3 * 25], few.frames)


def test_what_the_network_is_told():
    def told(name, how=TOLD):
        return [features is not None for features in _denoise(3, "argmax", name, how, grids=2, side=2)[1].told]

    assert told("none") == [False] * 3
    assert told("temporal") == [False, True, True]
    assert told("two-pass") == [False, True] * 3
    assert told("as-trained") == told(TOLD.inference)
    other = SelfConditioning.model_validate(TOLD.model_dump() | {"inference": "two-pass"})
    assert told("as-trained", other) == [False, True] * 3
    without = SelfConditioning.model_validate(TOLD.model_dump() | {"features": "none"})
    assert told("two-pass", without) == told("temporal", without) == [False] * 3


def test_every_name_in_the_configuration_is_a_sampler_and_no_other():
    assert tuple(SAMPLERS) == get_args(SamplerName)
