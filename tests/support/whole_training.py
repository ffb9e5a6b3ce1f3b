"""The stage train without a network: everything but the updates is real."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from model.training import resume_states
from tasks.common import paths
from tasks.common.params import resolved
from tasks.files import cost
from tests.support.made_up_training import MadeUp


class Whole(MadeUp):
    """A training that writes two candidates, and whose first runs lack memory `lacks` times."""

    made: list["Whole"]
    lacks = 0
    moved = 0.0
    fills = False

    def __init__(self, dataset: Any, weight: Any, rows: int, config: Any, *given: Any) -> None:
        super().__init__(Whole.updates)
        self.dataset, self.weight, self.rows, self.config, self.given = dataset, weight, rows, config, given
        self.workers = Whole.workers
        # Rows of context and target; the first number is of examples.
        share = 1 if self.fills else config.batch
        self.stream = SimpleNamespace(budget=(1000 // config.batch, 10 * share, 5 * share, 7777))
        self.restored: Any = None
        Whole.made.append(self)

    workers = SimpleNamespace(rank=0, count=1, wait=lambda: None)

    def restore(self, tensors: Any, plain: Any) -> None:
        self.restored, self.step = (tensors, plain), plain["step"]

    def updates(self, callbacks: Any) -> None:
        if Whole.lacks:
            Whole.lacks -= 1
            raise torch.OutOfMemoryError("Tried 2 GiB\nmore")
        for self.step in (6, 12):
            callbacks.on_candidate(self.step)
        self.history = [{"step": 12.0, "loss": 0.5}]

    def probe(self) -> dict[str, Any]:
        return {"reverse_step": {"cells_moved": self.moved}, "self_conditioning": {"gain": 0.25}}


def scratch() -> Path:
    return paths.SCRATCH / "train" / cost.training_key(resolved())


def saved(step: int, code: str) -> None:
    """A state of the training in its scratch ."""
    place = scratch()
    place.mkdir(parents=True)
    writer = resume_states.Writer(place, code)
    writer.save({"w": torch.tensor([4.0])}, {"step": step, "place": [2, 3], "halved_after": None})
    writer.wait()
