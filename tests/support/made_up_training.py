"""A training without a network: it calls back as a test says, and shows what was asked of it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from model.storage import checkpoints
from tasks import train
from tasks.common import events
from tasks.common.stage import StageError
from tests.conftest import experiment


class MadeUp:
    """What tasks/train.py needs of a Training; `script(training, callbacks)` stands for its updates."""

    def __init__(self, script: Callable[["MadeUp", Any], None], rank: int = 0, count: int = 1, **config: Any) -> None:
        self.workers = SimpleNamespace(rank=rank, count=count)
        self.config = experiment(train=config).train
        self.script = script
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.stopped_early = False
        self.asked: list[str] = []
        self.save_seconds = -1.0

    def run(self, *, save_seconds: float, **callbacks: Any) -> None:
        self.save_seconds = save_seconds
        self.script(self, SimpleNamespace(**callbacks))

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        self.asked.append("state")
        return {"w": torch.tensor([1.5 * self.step, 2.0])}, {"step": self.step, "place": [0, self.step]}

    def weights(self, kind: str) -> dict[str, torch.Tensor]:
        self.asked.append(kind)
        return {"w": torch.full((2, 3), {"ema": 1.0, "raw": 2.0}[kind] + self.step)}


def start(training: MadeUp, halved_after: int | None = None, spend: Any = None, **changes: Any) -> StageError | None:
    place = Path("scratch")
    place.mkdir(exist_ok=True)
    config = experiment(**changes)
    described = {
        "format": checkpoints.FORMAT,
        "experiment": config.name,
        "seed": 4,
        "optimizer_steps": 12,
        "weights": "ema",
        "train": config.train,
        "prepare": config.prepare,
        "augment": config.augment,
        "tasks": ["a", "b"],
        "first_rows": [0, 1],
        "task_rows": 2,
        "data": "0" * 64,
        "tests_trained_on": [],
        "pairs_trained_on": "",
        "leaks": 0,
    }
    return train.run(training, halved_after, place, described, config, spend or (lambda: None))


def told(log: Path) -> list[Any]:
    return list(events.Reader(log).new())
