"""A small house of scores and predictions for the tests of the report, and a reader of its page."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from PIL import Image

from model.puzzles.grids import Pair, Task
from model.storage.atomic import write_json
from tasks import prepare, report, score
from tasks.common import paths
from tasks.files import predictions
from tasks.params import differences
from tasks.reporting import panels
from tests.conftest import experiment, presets

COLOURS = ["000000", "0074d9", "ff4136", "2ecc40", "ffdc00", "aaaaaa", "f012be", "ff851b", "7fdbff", "870c25"]
VOID = {"meta", "img", "br", "link", "input", "hr"}
DRAWS = np.random.default_rng(7)
STEPS, VIEWS = 5, 3


def grid(height, width):
    return DRAWS.integers(0, 10, (height, width)).astype(np.uint8)


def other(answer):
    """A grid of the same size with one wrong cell."""
    wrong = answer.copy()
    wrong[0, 0] = (wrong[0, 0] + 1) % 10
    return wrong


SHAPES = {"aaaa0000": [(3, 4), (2, 2)], "bbbb0000": [(5, 1)], "cccc0000": [(4, 4)], "dddd0000": [(1, 1)]}
ANSWERS = {name: [grid(*shape) for shape in shapes] for name, shapes in SHAPES.items()}
ANSWERS["dddd0000"] = [np.zeros((1, 1), dtype=np.uint8)]
TASKS = {
    name: Task(
        name,
        tuple(Pair(grid(2, 3), grid(*shapes[0])) for _ in range(3)),
        tuple(Pair(grid(3, 3), None) for _ in shapes),
    )
    for name, shapes in SHAPES.items()
}
TRAINING = {"eeee0000": Task("eeee0000", (Pair(grid(2, 2), grid(2, 2)),), (Pair(grid(2, 2), None),))}
WRONG = {key: grid(6, 6) for key in SHAPES}
PROPOSED = {
    # What is proposed in order: by three views, or in two attempts. dddd0000 has no prediction at all.
    "votes": {
        ("aaaa0000", 0): [ANSWERS["aaaa0000"][0]] * 3,
        ("aaaa0000", 1): [WRONG["aaaa0000"]] * 3,
        ("bbbb0000", 0): [other(ANSWERS["bbbb0000"][0])] * 2 + [ANSWERS["bbbb0000"][0]],
        ("cccc0000", 0): [other(ANSWERS["cccc0000"][0])] * 3,
    },
    "attempts": {
        ("aaaa0000", 0): [ANSWERS["aaaa0000"][0], other(ANSWERS["aaaa0000"][0])],
        ("aaaa0000", 1): [WRONG["aaaa0000"], other(WRONG["aaaa0000"])],
        ("bbbb0000", 0): [other(ANSWERS["bbbb0000"][0])] * 2,
        ("cccc0000", 0): [other(ANSWERS["cccc0000"][0])] * 2,
    },
}


def predict(now, checkpoint, evaluation, proposed, leaks=0):
    rows = []
    for (task, test), grids in proposed.items():
        for i, cells in enumerate(grids):
            view, attempt = (i, 0) if evaluation == "votes" else (0, i)
            frames = [*(grid(*cells.shape) for _ in range(STEPS)), cells]
            rows.append(
                {
                    "task": task,
                    "test": test,
                    "view": view,
                    "attempt": attempt,
                    "height": cells.shape[0],
                    "width": cells.shape[1],
                    "cells": cells.tobytes(),
                    "size_log_probability": -0.5,
                    "confidence": 0.5,
                    "last_changed_step": STEPS,
                    **{
                        name: None if view else DRAWS.random(STEPS).tolist()
                        for name in ("change", "confidences", "entropy")
                    },
                    "frames": [] if view else [frame.tobytes() for frame in frames],
                }
            )
    source = predictions.Source(
        checkpoint="c" * 64,
        step=12,
        weights="ema",
        experiment=now.name,
        seed=now.seed,
        evaluation_name=evaluation,
        evaluation=now.evaluations[evaluation],
        data="d" * 64,
        leaks=leaks,
        failures=(),
    )
    predictions.write(paths.predictions(checkpoint, evaluation), rows, source)


def candidate(step, share):
    kept = ("pass_at_1", "pass_at_2", "cell_accuracy", "sizes_correct")
    return {
        "step": step,
        "ci95": [share / 2, min(1.0, share * 2)],
        "grids_solved": 2,
        "n_grids": 9,
        "n_tasks": 8,
    } | {name: share + i / 100 for i, name in enumerate(kept)}


@pytest.fixture(scope="module")
def built():
    """Data folders by the arguments they were built with: each is made once and then copied."""
    return {}


@pytest.fixture
def house(workspace, built, tmp_path_factory):
    """Writes what the stages before wrote, runs `score` and `report`; `proposed` are the answers by evaluation."""

    def build(leaks=0, selected=False, proposed=None, tasks_drawn=6):
        key = repr((leaks, selected, proposed, tasks_drawn))
        now = experiment(
            evaluations={"attempts": {"steps": STEPS}, "votes": {"steps": STEPS, "answers": {"views": VIEWS}}},
            predict={"checkpoints": ["best", "final"], "evaluations": ["attempts", "votes"]},
            prepare={"validation": "evaluation-solutions" if selected else "held-out-training"},
            score={"bootstrap": 100, "allow_leaks": leaks > 0},
            report={"tasks_drawn": tasks_drawn},
        )
        if key in built:
            shutil.copytree(built[key], "data", dirs_exist_ok=True)
            shutil.copyfile("data/metrics.json", paths.METRICS)
            return now
        paths.EXPERIMENT.write_text(yaml.safe_dump(now.model_dump(mode="json")))
        paths.DIFFERENCES.write_text(json.dumps(differences(now, presets())))
        paths.PREPARED.mkdir(parents=True, exist_ok=True)
        paths.CHECKPOINTS.mkdir(parents=True, exist_ok=True)
        answers = ANSWERS | {"eeee0000": [grid(2, 2)]}
        cells, pairs = prepare.pack(prepare.split_rows(TRAINING, TASKS, answers, set()))
        np.save(paths.CELLS, cells)
        pairs.to_parquet(paths.PAIRS, index=False)
        origins = dict.fromkeys(TRAINING, "training") | dict.fromkeys(TASKS, "evaluation")
        write_json(paths.TASKS, [{"name": name, "origin": origin} for name, origin in origins.items()])
        write_json(paths.EVALUATION_SOLUTIONS, {name: [g.tolist() for g in grids] for name, grids in ANSWERS.items()})
        leak = {"task": "aaaa0000", "test": 0, "how": "under a view", "trained_as": ["eeee0000", 0]}
        write_json(
            paths.LEAKS,
            {
                "leaks": "keep" if leaks else "drop",
                "other_set": "arcagi2",
                "outputs_that_recur_alone": 31,
                "own_demonstrations": [leak] * 41,
                "pairs_of_other_tasks": [leak] * leaks,
                "tasks_in_its_evaluation_set": [],
                "tasks_in_its_training_set": ["aaaa0000"],
            },
        )
        write_json(
            paths.SELECTION,
            {
                "best": 6,
                "candidates": [candidate(6, 0.2), candidate(12, 0.3)],
                "evaluation": now.select.model_dump(mode="json"),
                "final": 12,
                "halfway": 6,
                "late": 12,
                "on_the_reported_set": selected,
                "selected_on": now.prepare.validation,
            },
        )
        names = [*panels.TRAINING.values(), *(f"{key}_{i}" for key in ("accuracy", "cross_entropy") for i in range(3))]
        write_json(paths.HISTORY, [{"step": 4.0 * k, **dict.fromkeys(names, 1 / k)} for k in (1, 2, 3)])
        for checkpoint in now.predict.checkpoints:
            for evaluation in now.predict.evaluations:
                predict(now, checkpoint, evaluation, (proposed or PROPOSED)[evaluation], leaks)
                score.main(checkpoint, evaluation)
        report.main()
        shutil.copyfile(paths.METRICS, "data/metrics.json")
        built[key] = tmp_path_factory.mktemp("built") / "data"
        shutil.copytree("data", built[key])
        return now

    return build


class Element:
    def __init__(self, tag, attributes, parent=None):
        self.tag, self.attributes, self.parent, self.children = tag, attributes, parent, []

    def walk(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def find(self, tag, **attributes):
        return [e for e in self.walk() if e.tag == tag and attributes.items() <= e.attributes.items()]

    @property
    def text(self):
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return re.sub(r"\s+", " ", " ".join(parts)).strip()


class Tree(HTMLParser):
    """The page as elements; asserts that they are nested properly."""

    def __init__(self, page):
        super().__init__()
        self.root = self.at = Element("", {})
        self.feed(page)
        self.close()
        assert self.at is self.root, f"<{self.at.tag}> is not closed"

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag, attrs):
        self.at.children.append(Element(tag, dict(attrs), self.at))

    def handle_endtag(self, tag):
        assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}>"
        self.at = self.at.parent

    def handle_data(self, data):
        self.at.children.append(data)


def shown(image):
    """The grid of an <img>, which has one pixel a cell."""
    kind, _, data = image.attributes["src"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    height, width = pixels.shape[:2]
    cell = int(image.attributes["width"]) // width
    assert (height * cell, width * cell) == (int(image.attributes["height"]), int(image.attributes["width"]))
    assert image.attributes["alt"].endswith(f", {height} × {width}")
    return np.array([[COLOURS.index(bytes(colour).hex()) for colour in row] for row in pixels.tolist()])


def read():
    return Tree(paths.PAGE.read_text()).root


def part(page, name):
    (section,) = page.find("section", id=name)
    return section


def captions(card):
    """Caption -> (class, grid) of the figures of a card."""
    return {
        figure.find("figcaption")[0].text: (
            figure.attributes["class"],
            shown(figure.find("img")[0]) if figure.find("img") else None,
        )
        for figure in card.find("figure")
    }
