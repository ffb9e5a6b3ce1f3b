"""The lab's random draws of views before v3."""

import numpy as np
import pytest

from model.puzzles.views import make_views
from tests.support.presets import named


@pytest.mark.slow
def test_draws_of_the_identity_are_left_out_and_not_drawn_again():
    """The lab's 1dcf7c27 dataset:175: flip and rotation cancel and the cycle is 0 in one draw of 72."""
    tasks, draws = 2000, 39
    views = make_views(named("v1", "smol").augment, np.full(tasks, 1 + draws), 0)
    again = (views.element == 0) & (views.colour_cycle == 0)
    assert again[views.start].all()
    assert again.sum() == tasks
    left_out = tasks * (1 + draws) - len(views.element)
    assert left_out == pytest.approx(tasks * draws / 72, abs=4 * (tasks * draws / 72) ** 0.5)
