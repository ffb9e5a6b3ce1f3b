"""The training curves of the report: of the training, and of held-out pairs at the updates at which it looked."""

from tasks.reporting.drawing import curves, figure_svg
from tasks.reporting.panels import TRAINING, noise_panels, training_panels


def _row(step, held_out=None):
    names = [*TRAINING.values(), *(f"{key}_{i}" for key in ("accuracy", "cross_entropy") for i in range(3))]
    row = {"step": float(step)} | {name: step + i / 100 for i, name in enumerate(names)}
    looks = [n for n in names if n not in ("learning_rate", "gradient_norm")]
    return row | ({f"validation_{n}": held_out + i / 100 for i, n in enumerate(looks)} if held_out else {})


HISTORY = [_row(10), _row(20, 7.0), _row(30), _row(40, 6.0)]


def test_held_out_pairs_have_their_line_at_the_updates_of_their_looks():
    panels = {panel.title: panel for panel in training_panels(HISTORY)}
    assert list(panels) == list(TRAINING)
    assert panels["loss"].lines == {
        "training": ([10, 20, 30, 40], [10, 20, 30, 40]),
        "held out": ([20, 40], [7.0, 6.0]),
    }
    assert list(panels["sizes right"].lines) == ["training", "held out"]
    assert list(panels["learning rate"].lines) == ["learning rate"]
    noise = {panel.title: panel for panel in noise_panels(HISTORY)}
    assert list(noise) == [
        "cells right", "cross-entropy, nats", "cells right, held out", "cross-entropy, nats, held out",
    ]  # fmt: skip
    middle = noise["cells right, held out"].lines["middle third"]
    assert middle == ([20, 40], [row["validation_accuracy_1"] for row in (HISTORY[1], HISTORY[3])])
    assert noise["cells right, held out"].share
    drawn = figure_svg(curves([panels["loss"]], 1))
    assert "held out" in drawn
    assert "training" in drawn


def test_a_history_without_looks_has_the_curves_of_the_training_alone():
    history = [_row(10), _row(20)]
    assert [list(panel.lines) for panel in training_panels(history)] == [[title] for title in TRAINING]
    assert [panel.title for panel in noise_panels(history)] == ["cells right", "cross-entropy, nats"]
