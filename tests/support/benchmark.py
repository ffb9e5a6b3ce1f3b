"""For the tests of the benchmark: a clock that is made up, and three tasks."""

import torch

from model.config.experiment import Experiment
from tests.conftest import experiment

CPU = torch.device("cpu")
GRID = {"input": [[1, 2, 3]], "output": [[4], [5]]}
FILES = {
    ("evaluation", "challenges"): {
        "a": {"train": [GRID, GRID], "test": [{"input": [[1, 2]]}, {"input": [[3], [4]]}]},
        "b": {"train": [GRID], "test": [{"input": [[5]]}]},
    },
    ("training", "challenges"): {"c": {"train": [{"input": [[7, 8]], "output": [[9]]}], "test": []}},
}


def small() -> Experiment:
    """A network of 16 numbers a layer."""
    network = {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "size_hidden": 16}
    return experiment(train={"network": network, "batch": 40, "accumulation": 2})


class Clock:
    """Goes on by a second at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1.0
        return self.now
