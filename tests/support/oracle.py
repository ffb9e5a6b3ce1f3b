"""A network that knows the answers, its data, and evaluations of it."""

from types import SimpleNamespace

import numpy as np
import torch

from model.config.data import Augment
from model.config.evaluation import Attempts, Evaluation, Votes
from model.inference.predictor import Predictor
from model.puzzles.arrays import Dataset, Pairs
from model.puzzles.symmetry import transformed_shape, view_of
from model.puzzles.views import make_views

INPUTS = [np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8), np.array([[7, 0]], dtype=np.uint8)]
OUTPUTS = [np.arange(15, dtype=np.uint8).reshape(3, 5) % 10, np.array([[1], [2], [0], [9]], dtype=np.uint8)]
"""Not square, so that a view that transposes has other sides."""


def packed_dataset(views=72, inputs=INPUTS, scheme="all"):
    counts = {"training_views": 72, "evaluation_views": 72, "voting_views": views}
    config = Augment(scheme=scheme, output_only_colours="permuted", **counts)
    ends = np.cumsum([0, *(grid.size for grid in inputs)])
    sides = np.array([grid.shape for grid in inputs], dtype=np.int64)
    index = np.arange(len(inputs))
    pairs = Pairs(index, 0 * index, ends[:-1], sides[:, 0], sides[:, 1], 0 * index - 1, 0 * index, 0 * index)
    cells = np.concatenate([grid.ravel() for grid in inputs])
    return Dataset(cells, pairs, make_views(config, np.full(len(inputs), views), 0))


class Oracle:
    """Knows the answer as each view shows it, from the grids alone: cells by their place in the view's frame."""

    prefix_length = 4

    def __init__(self, dataset):
        self.dataset = dataset

    def _shown(self, packed, example):
        view = int(packed.examples.view[example])
        answer = OUTPUTS[int(packed.examples.task[example])]
        return view_of(int(self.dataset.views.element[view]), self.dataset.views.colours[view], answer)

    def encode(self, packed):
        logits = torch.full((len(packed.examples.task), 2, 30), -9.0)
        for example in range(len(logits)):
            task, view = int(packed.examples.task[example]), int(packed.examples.view[example])
            sides = transformed_shape(int(self.dataset.views.element[view]), OUTPUTS[task].shape)
            for axis, side in enumerate(sides):
                logits[example, axis, side - 1] = 9.0
        return SimpleNamespace(size_logits=logits)

    def denoise(self, packed, encoded, colours, time, features, gain):
        logits = torch.zeros(len(colours), 10)
        for row, (example, place) in enumerate(
            zip(packed.target_example.tolist(), packed.target_position.int().tolist(), strict=True)
        ):
            shown = self._shown(packed, example)
            if place[0] < shown.shape[0] and place[1] < shown.shape[1]:
                logits[row, shown[place[0], place[1]]] = 40.0
        return logits


TWICE = Attempts(by="attempts", count=2)


def votes(views):
    return Votes(by="votes", views=views)


def evaluation(**changes):
    values = {
        "weights": "as-trained",
        "steps": 2,
        "sampler": "draw",
        "self_conditioning": "none",
        "answers": votes(72),
        "sizes": "own",
        "transposed_sizes": "swapped",
        "task_row": "view",
        "stop_decided": None,
        "ranking": None,
        "subset": "evaluation",
    } | changes
    return Evaluation(**values, time_map="spaced", limit=0)


def predictor_of(network, description, dataset):
    names = [f"{i:08x}" for i in range(len(dataset.views.count))]
    return Predictor(network, description, dataset, names, 0, torch.device("cpu"))
