"""The saved view and the addresses of the pages, in a real browser against a real server."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tasks.commands import our_scores
from tasks.common import params
from tasks.tracking import view
from tests.conftest import ROOT
from tests.support.browser import browser, chromium_or_skip

pytestmark = pytest.mark.slow
# v0 to v8 and ours, v8 on two data sets and with several runs, the best of all among them.
SHOWN = [f"v{number}-smol-aa1" for number in range(8)]
SHOWN += ["growth-mediom-deep-35min", "growth-smol-5min", "v8-3min", "v8-5min-aa2", "v8-3min-one-step"]
SHOWN += ["ours-smol-aa1", "v3-muon-smol-aa1"]
KEPT = [Path("docs", "baselines", name) for name in sorted(SHOWN)]


def two_free_ports() -> list[int]:
    with socket.socket() as a, socket.socket() as b:
        for one in (a, b):
            one.bind(("127.0.0.1", 0))
        return [a.getsockname()[1], b.getsockname()[1]]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `make ui` prints for MLflow in a fresh checkout, once the kept results are imported."""
    chromium_or_skip()
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "docs" / "baselines").mkdir(parents=True)
    for place in (Path("presets.yaml"), *KEPT):
        (folder / place).symlink_to(ROOT / place)
    mlflow, prefect = two_free_ports()
    ports = ["--mlflow-port", str(mlflow), "--prefect-port", str(prefect)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / ".prefect")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "tasks.servers.ui", *ports]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        printed = {}
        assert process.stdout
        for line in process.stdout:
            if found := re.match(r"(\w+) +(http\S+)", line):
                printed[found[1]] = found[2]
            if "Ctrl-C" in line:
                break
        wait_for(folder / ".scratch" / "ui" / "import.log", [f"{place} published" for place in KEPT])
        yield printed
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def wait_for(log: Path, texts: list[str]) -> None:
    deadline = time.monotonic() + 400
    while not log.exists() or not all(text in log.read_text() for text in texts):
        assert time.monotonic() < deadline, log.read_text() if log.exists() else log
        time.sleep(0.5)


def test_the_printed_page_shows_the_kept_scores_sorted_and_without_a_click(addresses):
    with browser() as page:
        page.set_viewport_size({"width": 2800, "height": 800})
        page.goto(addresses["MLflow"])
        rows = page.locator(".ag-center-cols-container .ag-row")
        expect(rows).to_have_count(len(KEPT), timeout=60_000)
        cell = f"[col-id='tags.`{view.HEADLINE}`']"
        texts = page.locator(f".ag-center-cols-container {cell}").all_inner_texts()
        scores = [float(text.split()[1]) for text in texts]
        assert len(scores) == len(KEPT)
        assert scores == sorted(scores, reverse=True)
        assert texts[0].startswith("final-votes 42.2 [37.4–47.1]")
        heads = """() => [...document.querySelectorAll('[role=columnheader]')]
            .sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)
            .map(e => e.getAttribute('col-id') || '')"""
        shown = [name for name in page.evaluate(heads) if re.match("(tags|params|metrics)[.]", name)]
        assert shown == view.columns()
        expect(page.locator("body")).not_to_contain_text("Error loading shared view state")


def test_the_printed_versions_are_the_best_run_of_each_and_no_other(addresses, monkeypatch):
    monkeypatch.setattr(our_scores, "_folders", lambda: [ROOT / place for place in KEPT])
    best: dict[tuple[str, str], float] = {}
    for name, ours in our_scores.kept().items():
        values = params.read(ROOT / "docs" / "baselines" / name / "experiment.yaml")
        of = values["version"], values["dataset"]
        best[of] = max(best.get(of, 0.0), ours.pass_at_2)
    with browser() as page:
        page.set_viewport_size({"width": 2800, "height": 1000})
        page.goto(addresses["versions"])
        rows = page.locator(".ag-center-cols-container .ag-row")
        expect(rows).to_have_count(len(best), timeout=60_000)
        cells = [
            page.locator(f".ag-center-cols-container [col-id='{name}']").all_inner_texts()
            for name in ("tags.`arc.version`", "tags.`arc.dataset`", f"tags.`{view.HEADLINE}`")
        ]
    shown = {(version, dataset): float(text.split()[1]) for version, dataset, text in zip(*cells, strict=True)}
    assert shown == {of: round(100 * score, 1) for of, score in best.items()}


def test_at_1600_pixels_each_row_shows_its_score_and_no_assistant_opens(addresses):
    """MLflow opens its assistant on a browser's first visit; the printed address keeps it shut."""
    with browser() as page:
        page.set_viewport_size({"width": 1600, "height": 900})
        page.goto(addresses["MLflow"])
        score = page.locator(".ag-center-cols-container", has_text=re.compile(r"42\.2 \[\d\d\.\d–\d\d\.\d\]"))
        expect(score).to_be_visible(timeout=60_000)
        box = page.locator("[id^='cell-tags.`arc.pass_at_2`']", has_text="42.2 [").bounding_box()
        assert box
        assert box["x"] + box["width"] < 1600
        expect(page.get_by_text("Welcome to MLflow Assistant")).to_have_count(0)
        assert "secret=" not in page.url


def test_the_printed_charts_show_version_against_score(addresses):
    with browser() as page:
        page.set_viewport_size({"width": 2800, "height": 1000})
        page.goto(addresses["charts"])
        axis = page.locator(".xtick text")
        for version in {params.read(ROOT / place / "experiment.yaml")["version"] for place in KEPT}:
            name = axis.filter(has_text=re.compile(f"^{re.escape(version)}$")).first
            expect(name).to_be_visible(timeout=60_000)
        expect(page.locator(".ytitle").first).to_contain_text(view.METRIC)
