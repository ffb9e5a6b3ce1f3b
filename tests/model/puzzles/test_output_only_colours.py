"""Colours that only outputs have: which they are, and that permutations leave them alone where that is asked."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.config.data import Augment
from model.puzzles.views import make_views, output_only_colours
from tasks import augment, prepare
from tasks.common import paths
from tasks.common.presets import ConfigurationError
from tests.conftest import experiment, puzzles

VIEWS = {"training_views": 64, "evaluation_views": 64, "voting_views": 64}
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda s: arrays(np.uint8, s, elements=st.integers(0, 9))
)
COLOURS = st.frozensets(st.integers(1, 9))


def _config(how):
    return Augment(scheme="permutations", output_only_colours=how, **VIEWS)


@given(st.lists(st.tuples(GRIDS, GRIDS), max_size=4))
def test_a_colour_is_output_only_if_one_demonstration_shows_it_so(pairs):
    expected = {
        colour
        for colour in range(1, 10)
        if any(colour in after.ravel().tolist() and colour not in before.ravel().tolist() for before, after in pairs)
    }
    assert output_only_colours(pairs) == expected


@given(st.lists(COLOURS, min_size=1, max_size=3), st.integers(1, 200), st.integers(0, 50))
def test_kept_colours_are_fixed_points_and_all_others_are_permuted(kept, count, seed):
    views = make_views(_config("kept"), np.full(len(kept), count), seed, kept)
    for task, colours in enumerate(kept):
        maps = views.colours[views.start[task] :][:count]
        assert (maps[:, sorted({0} | colours)] == sorted({0} | colours)).all()
        assert (np.sort(maps, axis=1) == np.arange(10)).all()
        assert (maps[:8] == np.arange(10)).all()


def test_every_permutation_of_the_other_colours_is_as_likely():
    kept = frozenset(range(1, 10)) - {2, 5, 9}
    views = make_views(_config("kept"), np.array([8 * 6001]), 0, [kept])
    maps, counts = np.unique(views.colours[8::8], axis=0, return_counts=True)
    assert len(maps) == 6
    assert counts.sum() == 6000
    assert abs(counts - 1000).max() < 5 * (6000 / 6 * 5 / 6) ** 0.5


def test_without_output_only_colours_kept_is_permuted():
    counts = np.array([20, 5, 33])
    before = make_views(_config("permuted"), counts, 3)
    after = make_views(_config("kept"), counts, 3, [frozenset()] * 3)
    ignored = make_views(_config("permuted"), counts, 3, [frozenset({4})] * 3)
    for field in ("start", "count", "element", "colours", "colour_cycle"):
        assert np.array_equal(getattr(before, field), getattr(after, field))
        assert np.array_equal(getattr(before, field), getattr(ignored, field))


def test_the_permutations_are_those_that_earlier_code_drew():
    """The digest was taken before the switch was there."""
    views = make_views(_config("permuted"), np.array([72, 5, 300]), 7)
    fields = (views.start, views.count, views.element, views.colours, views.colour_cycle)
    assert hashlib.sha256(b"".join(field.tobytes() for field in fields)).hexdigest() == DIGEST


DIGEST = "35ee91d452bc5523a202271c7a47b820cd0cdd213207e6ec78d96885e1f0496c"


def test_fewer_views_are_the_first_of_more():
    more, fewer = (make_views(_config("kept"), np.array([n]), 7, [frozenset({3, 8})]) for n in (72, 21))
    assert np.array_equal(more.colours[:21], fewer.colours)


def test_kept_needs_the_colours_of_every_task_and_permutations():
    with pytest.raises(ValueError, match="needs the colours of every task"):
        make_views(_config("kept"), np.array([8, 8]), 0, [frozenset()])
    with pytest.raises(ConfigurationError, match="'kept' needs scheme 'permutations'; scheme is 'all'"):
        experiment(augment={"output_only_colours": "kept"})


@pytest.mark.parametrize("how", ["permuted", "kept"])
def test_the_stage_keeps_the_colours_of_each_task_in_training_and_voting(raw, how):
    files = puzzles()
    # Task b's outputs alone have colours 5 and 6; the evaluation task's colour 5 is in both grids of its pair.
    files["arc-agi_training_challenges.json"]["bbbbbbbb"]["train"] = [
        {"input": [[1, 2]], "output": [[5], [2]]},
        {"input": [[5, 2]], "output": [[6], [5]]},
    ]
    raw(files)
    scheme = {"scheme": "permutations", "output_only_colours": how, **VIEWS}
    config = experiment(augment=scheme, train={"network": {"conditioning": "d4"}}, prepare={"validation_tasks": 1})
    paths.EXPERIMENT.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    prepare.main()
    augment.main()
    for path in (paths.TRAINING_VIEWS, paths.VOTING_VIEWS):
        frame = pd.read_parquet(path)
        fixed = [
            {c for c in range(1, 10) if (rows[f"colour_{c}"] == c).all()}
            for _, rows in frame.groupby("task", sort=True)
        ]
        assert fixed == [set(), {5, 6} if how == "kept" else set(), set()]
