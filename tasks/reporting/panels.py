"""The plots of the report: training curves, votes and denoising steps, as lines by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reporting.drawing import Curve, Panel
from tasks.reporting.gallery import DenoisingExamples

ACCURACY, CROSS_ENTROPY = "cells right", "cross-entropy, nats"
TRAINING = {
    "loss": "loss",
    CROSS_ENTROPY: "cross_entropy",
    ACCURACY: "accuracy",
    "sizes right": "size_accuracy",
    "learning rate": "learning_rate",
    "gradient norm": "gradient_norm",
}
"""Title -> key of the history; its key for held-out pairs begins with HELD_OUT_PREFIX."""
HELD_OUT_PREFIX = "validation_"
BUCKETS = ("cleanest third", "middle third", "noisiest third")
STEPS = {"cells changed": "change", "confidence": "confidences", "entropy, nats": "entropy"}

History = Sequence[Mapping[str, float]]


def training_panels(history: History) -> list[Panel]:
    """Metrics over updates: means of the training, and the held-out pairs where the training looked at them."""
    panels = []
    for title, key in TRAINING.items():
        lines = _lines(history, {"training": key, "held out": HELD_OUT_PREFIX + key})
        # A line alone is named as its panel, which needs no legend then.
        panels.append(
            Panel(title, "updates", lines if len(lines) > 1 else {title: lines["training"]}, "right" in title)
        )
    return panels


def noise_panels(history: History) -> list[Panel]:
    """Accuracy and cross-entropy, a curve for each third of the noise levels; the same of the held-out pairs."""
    panels = []
    for where, prefix in (("", ""), (", held out", HELD_OUT_PREFIX)):
        for title in (ACCURACY, CROSS_ENTROPY):
            keys = {name: f"{prefix}{TRAINING[title]}_{i}" for i, name in enumerate(BUCKETS)}
            if lines := _lines(history, keys):
                panels.append(Panel(title + where, "updates", lines, share=title == ACCURACY))
    return panels


def vote_panels(score: Mapping[str, Any]) -> list[Panel]:
    """Score by the number of views that vote, and the number of views that gave each test grid's answer."""
    votes = score["votes"]
    views = [row["views"] for row in votes["curve"]]
    lines: dict[str, Curve] = {
        name: (views, [row[key] for row in votes["curve"]])
        for name, key in (("any view right", "oracle"), ("pass@2", "pass_at_2"), ("pass@1", "pass_at_1"))
    }
    right = [count for count, grids in reversed(votes["votes_for_the_answer"]) for _ in range(grids)]
    return [
        Panel("score by the number of views that vote", "views", lines),
        Panel("views that give the answer", "test grids, the surest first", {"": (range(1, len(right) + 1), right)}),
    ]


def step_panels(denoising: DenoisingExamples) -> list[Panel]:
    """Change, confidence and entropy per denoising step, for right and wrong answers; empty without frames."""
    panels = []
    for title, key in STEPS.items():
        lines: dict[str, Curve] = {
            f"ends {end} ({denoising.counts[end]})": (range(1, len(mean) + 1), mean.tolist())
            for end, mean in denoising.means.get(key, {}).items()
        }
        panels.append(Panel(title, "steps", lines, share=key != "entropy"))
    return panels


def _lines(history: History, keys: Mapping[str, str]) -> dict[str, Curve]:
    """Name -> the key's values over updates, in the rows that have it; no line where none has."""
    lines: dict[str, Curve] = {}
    for name, key in keys.items():
        if rows := [row for row in history if key in row]:
            lines[name] = [row["step"] for row in rows], [row[key] for row in rows]
    return lines
