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

from tasks.tracking import view
from tests.conftest import ROOT
from tests.support.browser import browser

pytestmark = pytest.mark.slow


def two_free_ports() -> list[int]:
    with socket.socket() as a, socket.socket() as b:
        for one in (a, b):
            one.bind(("127.0.0.1", 0))
        return [a.getsockname()[1], b.getsockname()[1]]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make ui` prints for MLflow in a fresh checkout, once the kept results are imported."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("presets.yaml", "docs"):
        (folder / name).symlink_to(ROOT / name)
    mlflow, prefect = two_free_ports()
    ports = ["--mlflow-port", str(mlflow), "--prefect-port", str(prefect)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / ".prefect")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "tasks.servers.ui", *ports]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        printed = next(line for line in process.stdout if re.match(r"MLflow +http", line)).split()[1]
        imported = folder / ".scratch" / "ui" / "import.log"
        wait_for(imported, "v3-muon-smol-aa1 published")
        yield printed
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 90
    while not log.exists() or text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else log
        time.sleep(0.5)


def test_the_printed_page_shows_the_kept_scores_sorted_and_without_a_click(address):
    with browser() as page:
        page.set_viewport_size({"width": 2800, "height": 800})
        page.goto(address)
        rows = page.locator(".ag-center-cols-container .ag-row")
        expect(rows).to_have_count(2, timeout=60_000)
        names = page.locator(".ag-row a", has_text="aa1").all_inner_texts()
        assert ["ours" in name for name in names] == [True, False]
        heads = """() => [...document.querySelectorAll('[role=columnheader]')]
            .sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)
            .map(e => e.getAttribute('col-id') || '')"""
        shown = [name for name in page.evaluate(heads) if re.match("(tags|params|metrics)[.]", name)]
        assert shown == view.columns()
        expect(page.locator("body")).to_contain_text(re.compile(r"33\.5 \[\d\d\.\d–\d\d\.\d\]"))
        expect(page.locator("body")).not_to_contain_text("Error loading shared view state")
        if picture := os.environ.get("ARC_PICTURE"):
            page.screenshot(path=f"{picture}-table.png")


def test_its_charts_show_version_against_score(address):
    with browser() as page:
        page.set_viewport_size({"width": 2800, "height": 1000})
        page.goto(f"{address}&compareRunsMode=CHART")
        axis = page.locator(".xtick text")
        expect(axis.filter(has_text=re.compile("^ours$")).first).to_be_visible(timeout=60_000)
        expect(axis.filter(has_text=re.compile("^v3$")).first).to_be_visible()
        expect(page.locator(".ytitle").first).to_contain_text("pass_at_2/best-votes")
        if picture := os.environ.get("ARC_PICTURE"):
            page.screenshot(path=f"{picture}-charts.png")
