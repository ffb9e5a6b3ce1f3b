"""Debian's chromium, driven by Playwright."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """An open page; its actions wait up to a minute. Skips where chromium is not installed."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1200, "height": 1250})
        page.set_default_timeout(60_000)
        yield page
        chromium.close()
