"""Ten experiments with two seeds each, published: what MLflow's page shows of them, and finds by tag, in a browser."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tasks.common import params, paths
from tasks.servers import mlflow_app, ui
from tasks.tracking import mlflow_runs, records, store, view
from tests.conftest import ROOT, presets
from tests.support.browser import browser

pytestmark = pytest.mark.slow

VERSIONS, DATASETS, SEEDS = ("v0", "v1", "v3", "v6", "v7"), ("aa1", "aa2"), (0, 1)
RESULTS = list(itertools.product(VERSIONS, DATASETS, SEEDS))
SCORES = {result: (7 + 36 * number % 80) / 100 for number, result in enumerate(RESULTS)}
"""pass@2 of each result, all different and not in the order of publication."""
NAME = ".ag-row a[href*='/runs/']"
ROW = ".ag-center-cols-container .ag-row"


def result(version: str, dataset: str, seed: int) -> mlflow_runs.Result:
    """The small experiment in the working folder under other names, with another score and without weights."""
    chosen = {"version": version, "size": "tiny", "dataset": dataset, "seed": seed}
    values = params.resolve(chosen, presets()).model_dump(mode="json")
    pass_at_2 = SCORES[version, dataset, seed]
    scores = {}
    for pair in (("best", "votes"), ("final", "votes")):
        measured = json.loads(paths.score(*pair).read_text())
        scores[pair] = measured | {"pass_at_2": pass_at_2, "ci95": [pass_at_2 - 0.05, pass_at_2 + 0.05]}
    finished = records.Finished(
        parameters=values,
        history=json.loads(paths.HISTORY.read_text()),
        selection=json.loads(paths.SELECTION.read_text()),
        probes={},
        scores=scores,
        cost={"seconds": 60.0, "device": "cpu"},
        code={"mlflow.source.git.commit": "0" * 40},
        files={},
        answers={pair: {"score.json": paths.score(*pair)} for pair in scores},
    )
    evaluations = [(pair[0], records.evaluation(finished, pair)) for pair in scores]
    data = mlflow_runs.Data(dataset, "0" * 12, "{}", "{}")
    return mlflow_runs.Result("arc-diffusion", records.training(finished), {}, evaluations, data)


@pytest.fixture
def address(repository: Path) -> Iterator[str]:
    """The address that `make ui` prints, of a store with all results, each published twice."""
    Path("presets.yaml").symlink_to(ROOT / "presets.yaml")
    place = store.configured_store()
    for key, made in enumerate([*RESULTS, *RESULTS]):
        new = mlflow_runs.publish(place, f"key-{key % len(RESULTS)}", lambda made=made: result(*made))
        assert new == (key < len(RESULTS))
    page, port = ui.mlflow_page(place), ui.free(43000 + os.getpid() % 1000 * 10, set())
    server = ui.start(page, port)
    try:
        ui.wait(page, port, server)
        yield mlflow_app.entrance(ui.scores(place, f"http://127.0.0.1:{port}"), ui.secret())
    finally:
        ui.end([server])


def shown(page: Page, column: str) -> list[str]:
    """The texts of a column from the top down."""
    cells = page.locator(f".ag-center-cols-container [col-id='{column}']").all()
    at = sorted((box["y"], cell.inner_text()) for cell in cells if (box := cell.bounding_box()))
    return [text for _, text in at]


def search(page: Page, wanted: str, count: int) -> None:
    """Type a search, and wait until there are `count` rows."""
    box = page.get_by_placeholder(re.compile("metrics")).first
    box.fill(wanted)
    box.press("Enter")
    expect(page.get_by_text(re.compile(rf"\b{count} matching runs?"))).to_be_visible(timeout=60_000)
    expect(page.locator(ROW)).to_have_count(count)


def test_all_results_are_there_once_best_first_and_are_found_by_tag(address):
    with browser() as page:
        page.set_viewport_size({"width": 2800, "height": 1600})
        page.goto(address)
        expect(page.locator(ROW)).to_have_count(len(RESULTS), timeout=60_000)
        expect(page.get_by_text("20 matching runs")).to_be_visible()
        best_first = sorted(RESULTS, key=lambda made: -SCORES[made])
        assert shown(page, "tags.`arc.version`") == [version for version, _, _ in best_first]
        assert shown(page, "tags.`arc.dataset`") == [dataset for _, dataset, _ in best_first]
        scores = shown(page, f"tags.`{view.scored('best-votes')}`")
        assert [float(text.split()[0]) for text in scores] == [round(100 * SCORES[made], 1) for made in best_first]
        names = page.locator(NAME).all_inner_texts()
        assert sorted(names) == sorted(f"{v}/tiny/{dataset} seed {seed}" for v, dataset, seed in RESULTS)

        only = "tags.`arc.run` = 'experiment' and "
        search(page, f"{only}tags.`arc.version` = 'v3'", 4)
        assert shown(page, "tags.`arc.version`") == ["v3"] * 4
        search(page, f"{only}tags.`arc.seed` = '1' and tags.arc.dataset = 'aa2'", 5)
        assert sorted(page.locator(NAME).all_inner_texts()) == [f"{v}/tiny/aa2 seed 1" for v in VERSIONS]
        search(page, "tags.`arc.run` = 'evaluation' and tags.`arc.checkpoint` = 'final'", 20)
        search(page, f"{only}tags.`arc.experiment` = 'v7/tiny/aa1' and metrics.`pass_at_2/best-votes` > 0", 2)
        assert sorted(page.locator(NAME).all_inner_texts()) == ["v7/tiny/aa1 seed 0", "v7/tiny/aa1 seed 1"]
