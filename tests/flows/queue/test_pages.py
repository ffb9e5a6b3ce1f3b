"""The pages of the queue as a person uses them: a real server, and Debian's chromium."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.support.browser import browser, log_in
from tests.support.flows_lab import (
    NAME,
    ROOT,
    SHORT,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]
DROP_DOWNS = "select:not(:empty)"
PRESETS = yaml.safe_load((ROOT / "presets.yaml").read_text())


@pytest.fixture
def page() -> Iterator[Page]:
    with browser() as made:
        expect.set_options(timeout=60_000)
        yield made


def fill_in(page: Page, lab: Lab) -> None:
    """Open the form and choose NAME."""
    [form] = lab.api("/deployments/filter")
    page.goto(f"http://127.0.0.1:{lab.port}/deployments/deployment/{form['id']}/run")
    expect(page.locator("body")).to_contain_text("no run is interrupted")
    for i, name in enumerate(NAME.split("/")):
        page.locator(DROP_DOWNS).nth(i).select_option(name)
    for i, name in enumerate(NAME.split("/")):
        expect(page.locator(DROP_DOWNS).nth(i)).to_have_value(name)


def add(page: Page, override: str) -> None:
    """Add an override."""
    before = page.locator("textarea").count()
    page.get_by_role("button", name="Add item", exact=True).click()
    expect(page.locator("textarea")).to_have_count(before + 1)
    page.locator("textarea").nth(before).fill(override)
    expect(page.locator("textarea").nth(before)).to_have_value(override)


def submit(page: Page) -> None:
    """Send the form."""
    page.get_by_role("button", name="Submit", exact=True).click()


def test_the_form_offers_what_there_is_and_refuses_what_is_wrong(lab: Lab, page: Page) -> None:
    elsewhere = []
    page.on("requestfailed", lambda request: elsewhere.append((request.url, request.failure)))
    lab.arc("queue", "--list")
    log_in(page, lab)
    fill_in(page, lab)
    kinds = [list(PRESETS[section]) for section in ("versions", "sizes", "datasets", "finetunings", "budgets")]
    kinds += [["high", "normal"], ["any", "gpu", "cpu"]]
    offered = [menu.locator("option").all() for menu in page.locator(DROP_DOWNS).all()]
    assert [[o.get_attribute("value") for o in options] for options in offered] == kinds
    for text in ("Of data order, initialisation", "KEY=VALUE each", "high runs before every normal one"):
        expect(page.locator("body")).to_contain_text(text)
    add(page, "train.stepz=3")
    submit(page)
    expect(page.locator("body")).to_contain_text("a key that `python -m tasks.params` prints")
    fill_in(page, lab)
    add(page, "train.optimizer.name=adam")
    submit(page)
    expect(page.locator("body")).to_contain_text("(adamw|muon|normuon)")
    assert lab.runs() == []
    fill_in(page, lab)
    add(page, "train.optimizer.name=muon")
    submit(page)
    [run] = until(lab.runs, 30)
    assert run["parameters"]["request"]["overrides"] == ["train.optimizer.name=muon"]
    assert run["state"]["type"] == "SCHEDULED"
    tried = {failure for url, failure in elsewhere if urlsplit(url).hostname != "127.0.0.1"}
    assert tried <= {"csp"}, "no page may connect to another machine"


def test_the_pages_show_stages_progress_scores_and_links(lab: Lab, page: Page) -> None:
    lab.start_worker()
    [run] = lab.queue(SHORT)
    lab.finish(run)
    assert lab.state(run) == "COMPLETED"
    stages = [row["name"] for row in lab.tasks(run)]
    assert {"prepare", "train", "select", "predict@best-attempts", "score@best-attempts", "report"} <= set(stages)
    body = page.locator("body")
    log_in(page, lab)
    page.goto(f"http://127.0.0.1:{lab.port}/runs/flow-run/{run}")
    expect(body).to_contain_text("Completed")
    expect(body).to_contain_text(f"{len(stages)} Task runs")
    expect(page.locator("canvas").first).to_be_attached()
    page.goto(f"http://127.0.0.1:{lab.port}/artifacts")
    for key in ("scores", "train", "links", "update 20 of 20, loss"):
        expect(body).to_contain_text(key)
    made = {row["key"]: row["latest_id"] for row in lab.api("/artifacts/latest/filter")}
    for key, shown in (("scores", "best-attempts"), ("links", "arc restore exp/"), ("train", "update 20 of 20")):
        page.goto(f"http://127.0.0.1:{lab.port}/artifacts/artifact/{made[key]}")
        expect(body).to_contain_text(shown)
