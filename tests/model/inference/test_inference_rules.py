"""Rules of answering with counts small enough to be told by hand: sizes, batches, rounds, two passes."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.config.diffusion import Noise
from model.config.evaluation import EarlyStop, RepeatedVotes
from model.diffusion.schedule import cosine_schedule, levels
from model.inference.batching import batches, bisect_failures, one_ahead
from model.inference.early_stop import Rounds, decided
from model.inference.likelihood import log_likelihoods
from model.inference.sizes import assign_sizes
from model.ops.keyed_random import hash_key
from model.scoring.proposals import collect_proposals
from model.scoring.scores import NOTHING, attempts_of
from tests.conftest import experiment
from tests.support.oracle import OUTPUTS, Oracle, evaluation, packed_dataset, predictor_of, votes
from tests.support.small_experiment import build, save_checkpoint

SIZES = [(1, 2), (3, 3), (2, 2), (3, 3), (1, 2), (5, 4), (3, 3)]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("own", SIZES),
        ("voted", [(3, 3)] * 7),
        ("split-in-order", [(1, 2), (3, 3), (3, 3), (3, 3), (1, 2), (1, 2), (3, 3)]),
        ("split", [(1, 2), (3, 3), (1, 2), (3, 3), (1, 2), (3, 3), (3, 3)]),
    ],
)
def test_each_rule_of_sizes(rule: Any, chosen: list[Any]) -> None:
    confidence = np.full((7, 2, 30), -5.0)
    confidence[2, 0, 0] = confidence[5, 1, 2] = -1.0  # Height 1 for the third view, width 3 for the sixth.
    assert assign_sizes(rule, SIZES, confidence) == chosen


def test_batches_are_filled_to_the_budget_in_the_order_of_lengths() -> None:
    assert list(batches([], 5)) == []
    assert list(batches([3, 1, 2, 1, 9], 4)) == [[1, 3, 2], [0], [4]]
    assert list(batches([2, 2, 2], 4)) == [[0, 1], [2]]


@pytest.mark.parametrize(("bad", "gives_up"), [(64, False), (65, True)])
def test_more_than_64_failures_are_no_accident(bad: int, gives_up: bool) -> None:
    failed: dict[int, str] = {}

    def work(batch: list[int]) -> list[int]:
        if min(batch) < bad:
            raise KeyError(min(batch))
        return batch

    def run(failed: Any) -> list[int]:
        return [i for part in bisect_failures(work, list(range(70)), failed) for i in part]

    if gives_up:
        with pytest.raises(KeyError):
            run(failed)
    else:
        assert run(failed) == list(range(64, 70))
    assert failed == {i: f"KeyError: {i}" for i in range(64)}
    with pytest.raises(KeyError):
        run(None)


def _grid(colour: int) -> Any:
    return np.full((1, 1), colour, np.uint8)


def test_each_test_input_is_asked_in_the_order_of_its_views_until_it_is_decided() -> None:
    asked = [(1, 2), (0, 1), (1, 0), (0, 0), (1, 1), (0, 2)]
    rounds = Rounds(EarlyStop(round=1, attempts=1, swing=1.0), asked)
    assert (rounds.next(), rounds.done) == ([2, 3], 0)
    rounds.count(0, 0, _grid(1))
    rounds.count(1, 0, _grid(1))
    assert (rounds.next(), rounds.done) == ([1, 4], 2)
    rounds.count(0, 1, _grid(1))
    rounds.count(1, 1, _grid(2))
    assert (rounds.next(), rounds.done) == ([0], 5), "two of three votes decide the one, and its third is not needed"
    rounds.count(1, 2, _grid(2))
    assert (rounds.next(), rounds.done) == ([], 6)


def test_without_early_stopping_all_are_asked_at_once_and_no_vote_is_kept() -> None:
    rounds = Rounds(None, [(1, 0), (0, 0), (1, 1)])
    rounds.count(0, 0, _grid(1))
    assert (rounds.next(), rounds.done) == ([0, 1, 2], 0)
    assert rounds._votes == {}
    assert (rounds.next(), rounds.done) == ([], 3)


@pytest.mark.parametrize(
    ("tally", "left", "attempts", "swing", "is_decided"),
    [
        ([(3, 0)], 2, 1, 1.0, True),
        ([(2, 0)], 2, 1, 1.0, True),  # A new grid with two votes is later.
        ([(2, 0)], 3, 1, 1.0, False),
        ([(2, 0), (1, 1)], 1, 1, 1.0, True),
        ([(2, 1), (1, 0)], 1, 1, 1.0, False),  # It would have as many, and is earlier.
        ([(1, 0), (2, 1)], 1, 1, 1.0, False),
        ([(2, 1), (1, 0)], 1, 1, 0.5, True),
        ([(5, 0)], 1, 2, 1.0, False),  # Whatever comes is second.
        ([(5, 0)], 0, 2, 1.0, True),
        ([], 0, 1, 1.0, True),
        ([], 1, 1, 1.0, False),
        ([(9, 0), (4, 1), (3, 2)], 1, 2, 1.0, True),
        ([(9, 0), (4, 2), (3, 1)], 1, 2, 1.0, False),
        ([(9, 0), (4, 2), (3, 1)], 1, 1, 1.0, True),
    ],
)
def test_when_a_vote_is_decided(tally: Any, left: int, attempts: int, swing: float, is_decided: bool) -> None:
    assert decided(tally, left, EarlyStop(round=1, attempts=attempts, swing=swing)) == is_decided


def test_views_that_a_decided_vote_spares_count_as_done(workspace: Any) -> None:
    dataset, shares = packed_dataset(views=8), []
    subject = predictor_of(Oracle(dataset), save_checkpoint(build()), dataset)
    stop = EarlyStop(round=2, attempts=1, swing=1.0)
    answers = list(subject.answer(evaluation(answers=votes(8), stop_decided=stop), shares.append))
    assert sorted((a.pair, a.view) for a in answers) == [(pair, view) for pair in (0, 1) for view in range(4)]
    assert all(np.array_equal(a.grid, OUTPUTS[a.pair]) for a in answers)
    assert shares == [0.25, 0.5, 1.0]


class Passes:
    """A network whose first answers are these logits and whose second ones depend on what it is told of the first."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits
        self.gains: list[float] = []

    def encode(self, _: Any) -> None: ...

    def denoise(self, _packed: Any, _encoded: Any, _colours: Any, _time: Any, features: Any, gain: Any) -> Any:
        self.gains.append(float(gain))
        return self.logits if features is None else 3.0 * features


def _likelihoods(mode: str, count: int) -> tuple[Any, Any, list[float]]:
    """Of cells 0 and 1 of a grid and the only cell of another; their logits, and the gains of all passes."""
    change = {"features": "probabilities", "gain": "progress"}
    conditioning = experiment(train={"self_conditioning": change}).train.self_conditioning
    table = levels(cosine_schedule(Noise(steps=8, offset=0.008, alpha_bar_final=0.02)), "log-snr", torch.device("cpu"))
    packed: Any = SimpleNamespace(
        target_example=torch.tensor([0, 0, 1]),
        target_cell=torch.tensor([0, 1, 0]),
        examples=SimpleNamespace(output_width=torch.tensor([2, 1])),
        target_segments=SimpleNamespace(query_starts=torch.tensor([0, 2, 3])),
    )
    logits = torch.randn(3, 10)
    network: Any = Passes(logits)
    clean, config = torch.tensor([4, 0, 9]), evaluation(self_conditioning=mode)
    key = hash_key(3, torch.arange(2))
    return log_likelihoods(network, packed, clean, table, conditioning, config, count, key), logits, network.gains


def test_two_passes_tell_the_network_of_its_own_estimate() -> None:
    found, logits, gains = _likelihoods("two-pass", 3)
    estimate = 3.0 * logits.exp() / logits.exp().sum(-1, keepdim=True)
    cells = (estimate - estimate.exp().sum(-1, keepdim=True).log())[torch.arange(3), torch.tensor([4, 0, 9])]
    expected = torch.stack([(cells[0] + cells[1]) / 2, cells[2]])
    torch.testing.assert_close(found, expected[:, None].expand(2, 3))
    assert gains == pytest.approx([0.3, 0.3, 0.65, 0.65, 1.0, 1.0])
    found, logits, gains = _likelihoods("none", 1)
    cells = logits.log_softmax(-1)[torch.arange(3), torch.tensor([4, 0, 9])]
    torch.testing.assert_close(found[:, 0], torch.stack([(cells[0] + cells[1]) / 2, cells[2]]))
    assert gains == pytest.approx([0.3])


def test_each_repetition_of_a_vote_has_a_winner_of_its_own() -> None:
    a, b, c = (_grid(colour) for colour in (1, 2, 3))
    twice = RepeatedVotes(by="repeated-votes", repetitions=2, views=3)

    def winners(grids: list[Any], view: list[int], confidence: list[float] | None = None, **rule: Any) -> list[Any]:
        given = collect_proposals(grids, view, confidence)
        [found] = attempts_of({("t", 0): given}, evaluation(answers=twice), **rule).values()
        return [-1 if grid is NOTHING else int(grid[0, 0]) for grid in found]

    assert winners([a, b, b, c, a, a], [0, 1, 2, 3, 4, 5]) == [2, 1]
    assert winners([a, b, b, c, a, a], [0, 1, 2, 3, 4, 5], [0.9, 0.1, 0.2, 0.8, 0.1, 0.3], rule="confidence") == [1, 3]
    assert winners([a, b], [1, 2]) == [1], "the second failed"
    assert winners([a, b, b], [3, 4, 5]) == [-1, 2], "the first failed, and is not replaced"
    assert winners([], []) == []


def test_what_was_begun_is_waited_for_once_the_next_is_begun() -> None:
    events: list[str] = []

    def begin(count: int) -> Iterator[Callable[[], int]]:
        for i in range(count):
            events.append(f"begin {i}")
            yield lambda i=i: events.append(f"wait {i}") or i

    assert list(one_ahead(begin(3))) == [0, 1, 2]
    assert events == ["begin 0", "begin 1", "wait 0", "begin 2", "wait 1", "wait 2"]
    assert list(one_ahead(begin(0))) == []
