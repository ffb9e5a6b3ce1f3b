"""A predictions file of the small experiment."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.common.presets import merge
from tasks.files import predictions
from tests.conftest import experiment

TESTS = [("cccccccc", 0), ("dddddddd", 0), ("dddddddd", 1)]
GRID = np.array([[1, 2]], dtype=np.uint8)


def put(path: Path, name: str = "votes", digest: str = "c" * 64, **evaluation: Any) -> Path:
    """Predictions of the small experiment, one view of each test input."""
    settings = merge(experiment().evaluations[name].model_dump(mode="json"), evaluation)
    values = {
        "checkpoint": digest,
        "step": 3,
        "weights": "ema",
        "experiment": experiment().name,
        "seed": 0,
        "evaluation_name": name,
        "evaluation": settings,
        "data": "d" * 64,
        "leaks": 0,
        "failures": [],
    }
    source = predictions.Source.model_validate_json(json.dumps(values))
    cells = {"height": 1, "width": 2, "cells": b"\1\2", "view": 0, "attempt": 0}
    predictions.write(path, [{"task": task, "test": test, **cells} for task, test in TESTS], source)
    return path
