"""The pages of the queue as a person uses them: a real server, and Debian's chromium."""

from collections.abc import Iterator

import pytest
import yaml

from tests.support.browser import Page, browser
from tests.support.flows_lab import (
    NAME,
    ROOT,
    SHORT,
    Lab,
    lab,  # noqa: F401
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.night]
DROP_DOWNS = "[...document.querySelectorAll('select:not(:empty)')].map(s => [...s.options].map(o => o.value))"
PRESETS = yaml.safe_load((ROOT / "presets.yaml").read_text())


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


def fill_in(page: Page, lab: Lab) -> None:
    """Open the form and choose NAME."""
    [form] = lab.api("/deployments/filter")
    page.open(
        f"http://127.0.0.1:{lab.port}/deployments/deployment/{form['id']}/run",
        "document.body.innerText.includes('no run is interrupted')",
    )
    for i, name in enumerate(NAME.split("/")):
        page.choose(i, name)


def add(page: Page, override: str) -> None:
    """Add an override."""
    before = page.value("document.querySelectorAll('textarea').length")
    page.press("Add item")
    page.until(f"document.querySelectorAll('textarea').length == {before + 1}")
    page.click("textarea", before)
    page.type(override)
    page.until(f"document.querySelectorAll('textarea')[{before}].value == {override!r}")


def test_the_form_offers_what_there_is_and_refuses_what_is_wrong(lab: Lab, page: Page) -> None:
    lab.arc("queue", "--list")
    fill_in(page, lab)
    kinds = [list(PRESETS[section]) for section in ("versions", "sizes", "datasets")]
    assert page.value(DROP_DOWNS) == [*kinds, ["high", "normal"]]
    for text in ("Of data order, initialisation", "KEY=VALUE each", "high runs before every normal one"):
        assert text in page.text()
    add(page, "train.stepz=3")
    page.press("Submit")
    page.until("document.body.innerText.includes('a key that `python -m tasks.params` prints')")
    fill_in(page, lab)
    add(page, "train.optimizer.name=adam")
    page.press("Submit")
    page.until("document.body.innerText.includes('(adamw|muon)')")
    assert lab.runs() == []
    fill_in(page, lab)
    add(page, "train.optimizer.name=muon")
    page.press("Submit")
    [run] = until(lab.runs, 30)
    assert run["parameters"]["request"]["overrides"] == ["train.optimizer.name=muon"]
    assert run["state"]["type"] == "SCHEDULED"


def test_the_pages_show_stages_progress_scores_and_links(lab: Lab, page: Page) -> None:
    lab.start_worker()
    [run] = lab.queue(SHORT)
    until(lambda: lab.state(run) == "COMPLETED", 200)
    stages = [row["name"] for row in lab.tasks(run)]
    assert {"prepare", "train", "select", "predict@best-attempts", "score@best-attempts", "report"} <= set(stages)
    page.open(f"http://127.0.0.1:{lab.port}/runs/flow-run/{run}", "document.body.innerText.includes('Completed')")
    page.until(f"document.body.innerText.includes('{len(stages)} Task runs')")
    page.until("!!document.querySelector('canvas')")
    page.open(f"http://127.0.0.1:{lab.port}/artifacts", "document.body.innerText.includes('links')")
    text = page.text()
    for key in ("scores", "train", "links", "update 20 of 20, loss"):
        assert key in text
    made = {row["key"]: row["latest_id"] for row in lab.api("/artifacts/latest/filter")}
    for key, shown in (("scores", "best-attempts"), ("links", "git switch exp/"), ("train", "update 20 of 20")):
        page.open(
            f"http://127.0.0.1:{lab.port}/artifacts/artifact/{made[key]}",
            f"document.body.innerText.includes({shown!r})",
        )
