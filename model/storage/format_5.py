"""Descriptions of checkpoints in format 5, which lacks what all networks were before: one turn, no convolution."""

from collections.abc import Mapping
from typing import Any

_NETWORK = {"turns": 1, "convolution": "none", "hidden_dropout": 0.0}
_TRAIN = {"last_turn_share": None}


def as_format_6(values: Mapping[str, Any]) -> dict[str, Any]:
    """The description with the keys that format 5 lacks; without a network it stays incomplete."""
    train = values.get("train")
    if not isinstance(train, Mapping) or not isinstance(train.get("network"), Mapping):
        return {**values, "format": 6}
    network = _NETWORK | dict(train["network"])
    return {**values, "format": 6, "train": {**_TRAIN, **train, "network": network}}
