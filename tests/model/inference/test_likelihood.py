"""Likelihoods of candidates: against one candidate at a time by hand, against closed forms, and the same in batches."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.config.diffusion import Noise
from model.config.evaluation import Ranking
from model.diffusion.schedule import cosine_schedule, inference_levels, levels
from model.inference import batching
from model.inference.likelihood import log_likelihoods
from model.inference.predictor import Predictor
from model.inference.ranking import candidates, rank
from model.network.denoiser import Denoiser
from model.ops.keyed_random import hash_key, uniform
from model.ops.random_purposes import LikelihoodDraw
from model.puzzles.symmetry import view_of
from model.storage import checkpoints
from tasks.common import paths
from tests.conftest import experiment
from tests.support.oracle import OUTPUTS, Oracle, evaluation, packed_dataset, predictor_of, votes
from tests.support.small_experiment import build, save_checkpoint

RANKING = Ranking(candidates=3, views=9, levels=2)
HOW = {"answers": votes(24), "ranking": RANKING, "self_conditioning": "as-trained"}


@pytest.fixture
def predictor(workspace):
    """Of random weights, for two grids, with views that turn, mirror and recolour."""
    save_checkpoint(build())
    network, description = checkpoints.load(paths.CHECKPOINTS / "best", torch.device("cpu"))
    return Predictor(network, description, packed_dataset(), ["a", "b"], 5, torch.device("cpu"))


def _by_hand(predictor, pair, grid, view, level):
    """l(v, t) of one candidate, put into the data set as the pair's output and packed alone, cell by cell."""
    data, p = predictor.dataset, predictor.dataset.pairs
    known = replace(
        p,
        output_offset=p.output_offset * 0 + len(data.cells),
        output_height=p.output_height * 0 + grid.shape[0],
        output_width=p.output_width * 0 + grid.shape[1],
    )
    alone = replace(predictor, dataset=replace(data, cells=np.concatenate([data.cells, grid.ravel()]), pairs=known))
    row = list(alone.row(pair, view, grid.shape, "view"))
    row[5] = len(data.cells)
    packed = alone.pack([tuple(row)])
    element, colours = data.views.element[pair * 72 + view], data.views.colours[pair * 72 + view]
    shown, places = view_of(int(element), colours, grid), packed.target_position.long()[:, :2]
    assert packed.target_colour.tolist() == [int(shown[r, c]) for r, c in places.tolist()]
    noisy = []
    for cell, colour in enumerate(packed.target_colour.tolist()):
        where = level, *divmod(cell, grid.shape[1])
        keep, new = (float(uniform(alone.key([(pair, view, 0)]), draw, *where)) for draw in LikelihoodDraw)
        noisy.append(colour if keep < float(alone.levels.alpha_bar[level]) else int(new * 10))
    network = alone.network
    with torch.no_grad():
        time = alone.levels.time[level].expand(len(noisy))
        logits = network.denoise(packed, network.encode(packed), torch.tensor(noisy), time, None, None)
    return float(torch.log_softmax(logits, -1)[torch.arange(len(noisy)), packed.target_colour].mean())


@pytest.mark.slow
def test_every_value_is_that_of_the_candidate_alone(predictor):
    """Candidates of three sizes under views of all D4 elements and two colour maps, of two test inputs in one batch."""
    draws = np.random.default_rng(1)
    shapes = [(2, 3), (3, 2), (1, 4), (2, 3), (4, 1), (2, 2)]
    given = [(i // 3, draws.integers(0, 10, shape).astype(np.uint8)) for i, shape in enumerate(shapes)]
    first = next(iter(predictor.answer(evaluation(answers=votes(1)))))
    answers = [first._replace(pair=pair, view=view, grid=grid) for view, (pair, grid) in enumerate(given)]
    at = inference_levels(128, RANKING.levels)
    for answer in rank(predictor, answers, evaluation(**HOW), RANKING):
        assert answer.log_likelihoods.shape == (9, 2)
        by_hand = [[_by_hand(predictor, answer.pair, answer.grid, view, t) for t in at] for view in range(9)]
        assert answer.log_likelihoods == pytest.approx(np.array(by_hand), abs=1e-5)


def test_the_candidates_are_the_most_frequent_and_all_else_is_as_without_ranking(predictor):
    found, plain = (list(predictor.answer(evaluation(**HOW | more))) for more in ({}, {"ranking": None}))
    for one, other in zip(found, plain, strict=True):
        assert one[:3] == other[:3]
        assert np.array_equal(one.grid, other.grid)
    for pair in (0, 1):
        own = sorted((a for a in found if a.pair == pair), key=lambda a: a.view)
        expected = [grid for grid, _ in Counter(str(a.grid.tolist()) for a in own).most_common(3)]
        first = {grid: [str(a.grid.tolist()) for a in own].index(grid) for grid in expected}
        assert {i for i, a in enumerate(own) if a.log_likelihoods is not None} == set(first.values())


@pytest.mark.slow
def test_batches_of_any_size_give_the_same_likelihoods(predictor, monkeypatch):
    answers = list(predictor.answer(evaluation(**HOW)))
    values = []
    for rows in (8192, 60):
        monkeypatch.setitem(batching.ROWS, "cpu", rows)
        shares: list[float] = []
        ranked = rank(predictor, answers, evaluation(**HOW), RANKING, shares.append)
        values.append([a.log_likelihoods for a in ranked if a.log_likelihoods is not None])
        assert shares[-1] == 1
    assert len(shares) > 3
    assert np.array(values[0]) == pytest.approx(np.array(values[1]), abs=1e-5)


def test_all_candidates_of_a_test_input_get_the_same_noise(predictor, monkeypatch):
    seen = []
    denoise = Denoiser.denoise

    def spy(self, packed, encoded, colours, time, features, gain):
        seen.append((packed, colours.clone()))
        return denoise(self, packed, encoded, colours, time, features, gain)

    a, b = np.zeros((3, 4), np.uint8), np.zeros((5, 2), np.uint8)
    a[0, 1] = 7
    found = [SimpleNamespace(pair=0, attempt=0, view=view, grid=grid) for view, grid in enumerate((a, b))]
    monkeypatch.setattr(Denoiser, "denoise", spy)
    for answer in found:
        answer._replace = lambda **changes: SimpleNamespace(**changes)
    rank(predictor, found, evaluation(**HOW), Ranking(candidates=2, views=6, levels=3))
    compared = changed = 0
    for packed, colours in seen:
        views, widths = packed.examples.view, packed.examples.output_width
        cells: dict[tuple[int, int, int], list[int]] = {}
        for example, cell, colour in zip(packed.target_example, packed.target_cell, colours, strict=True):
            row, column = divmod(int(cell), int(widths[example]))
            cells.setdefault((int(views[example]), row, column), []).append(int(colour))
        for (_, row, column), both in cells.items():
            if len(both) == 2 and (row, column) != (0, 1):  # Where both grids are black.
                compared += 1
                changed += both[0] != 0
                assert both[0] == both[1]
    assert compared == 3 * 6 * 5
    assert changed > 20


PRIOR = torch.tensor([0.5, 0.2, 0.1, 0.05, 0.05, 0.04, 0.03, 0.01, 0.01, 0.01], dtype=torch.float64)


class Exact:
    """Knows the prior of a cell's colour, and thereby p(x_0 | x_t)."""

    def __init__(self, table):
        self.table = table

    def encode(self, packed):
        return None

    def denoise(self, packed, encoded, colours, time, features, gain):
        level = int((self.table.time - time).abs().argmin())
        alpha_bar = self.table.alpha_bar[level].double()
        likelihood = (1 - alpha_bar) / 10 + alpha_bar * torch.nn.functional.one_hot(colours, 10)
        return (PRIOR * likelihood).log()


def test_the_mean_is_the_closed_form_and_bounds_the_log_probability():
    """Cells of one colour, drawn from PRIOR: E log p(x_0 | x_t) by summing over the ten values of x_t."""
    count, config = 20000, experiment().train.self_conditioning
    table = levels(cosine_schedule(Noise(steps=8, offset=0.008, alpha_bar_final=0.02)), "log-snr", torch.device("cpu"))
    packed = SimpleNamespace(
        target_example=torch.arange(count),
        target_cell=torch.zeros(count, dtype=torch.int64),
        examples=SimpleNamespace(output_width=torch.ones(count, dtype=torch.int64)),
        target_segments=SimpleNamespace(query_starts=torch.arange(count + 1)),
    )
    for colour in (0, 4, 9):
        clean = torch.full((count,), colour)
        key = hash_key(3, torch.arange(count))
        found = log_likelihoods(Exact(table), packed, clean, table, config, evaluation(), 8, key)
        assert found.shape == (count, 8)
        alpha_bar = table.alpha_bar.double().flip(0)[:, None, None]  # Noisiest first.
        q = (1 - alpha_bar) / 10 + alpha_bar * torch.eye(10)  # (levels, x_0, x_t)
        posterior = PRIOR[:, None] * q / (PRIOR[:, None] * q).sum(1, keepdim=True)
        expected = (q[:, colour] * posterior[:, colour].log()).sum(-1)
        error = found.double().std(0) / count**0.5
        assert ((found.double().mean(0) - expected).abs() < 5 * error + 1e-6).all()
        last = q[0, colour]
        constant = (last * (last / (PRIOR[:, None] * q[0]).sum(0)).log()).sum()
        assert expected.sum() - constant <= PRIOR[colour].log()


def test_of_a_network_that_knows_the_answer_the_answer_is_likeliest(predictor):
    dataset = packed_dataset()
    subject = predictor_of(Oracle(dataset), predictor.description, dataset)
    wrong = [(grid + 1) % 10 for grid in OUTPUTS] + [grid[:, ::-1] for grid in OUTPUTS]
    grids = [(pair % 2, np.ascontiguousarray(grid)) for pair, grid in enumerate([*wrong, *OUTPUTS, *wrong])]
    first = next(iter(subject.answer(evaluation(answers=votes(1)))))
    answers = [
        first._replace(pair=pair, view=view, grid=grid.astype(np.uint8)) for view, (pair, grid) in enumerate(grids)
    ]
    ranked = rank(subject, answers, evaluation(answers=votes(9)), Ranking(candidates=3, views=9, levels=2))
    for pair, right in enumerate(OUTPUTS):
        own = [a for a in ranked if a.pair == pair and a.log_likelihoods is not None]
        means = {a.grid.tobytes(): a.log_likelihoods.mean() for a in own}
        assert len(means) == 3 - (pair == 1)  # Of one column, mirrored is the same.
        assert max(means, key=means.get) == right.tobytes()
        assert means[right.tobytes()] == pytest.approx(0, abs=1e-5)


def test_a_single_candidate_needs_no_rank_and_ties_go_to_the_earlier_view():
    one, two, three = (np.full((1, 1), c, np.uint8) for c in (1, 2, 3))
    given = [(0, one), (0, one), (1, two), (1, one), (1, three), (1, one)]
    answers = [SimpleNamespace(pair=pair, attempt=0, view=view, grid=grid) for view, (pair, grid) in enumerate(given)]
    found = candidates(answers, 2)
    assert [(c.answer, c.pair, int(c.grid[0, 0])) for c in found] == [(3, 1, 1), (2, 1, 2)]


def test_a_candidate_that_fails_is_an_error_that_names_it(predictor, monkeypatch):
    answers = list(predictor.answer(evaluation(**HOW)))

    def broken(self, packed, *_):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(batching, "MOST_FAILURES", 1000)
    monkeypatch.setattr(Denoiser, "denoise", broken)
    with pytest.raises(RuntimeError, match="likelihood of a candidate of task a under view 0: RuntimeError: no kernel"):
        rank(predictor, answers, evaluation(**HOW), RANKING)
